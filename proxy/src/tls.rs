//! TLS for clients: 1.2 and 1.3, session tickets, and certificates that are read again when their
//! files change.

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

/// Where the certificate, the key and perhaps the clients' authority are.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// The present TLS settings; every handshake takes the newest.
#[derive(Clone)]
pub(crate) struct TlsSettings {
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl TlsSettings {
    pub(crate) fn load(files: &TlsFiles) -> anyhow::Result<Self> {
        let config = Arc::new(files.load()?);
        Ok(Self { current: Arc::new(RwLock::new(config)) })
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the files again; a mistake in them leaves the present certificate in use.
    pub(crate) fn reload(&self, files: &TlsFiles) -> anyhow::Result<()> {
        let config = Arc::new(files.load()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

impl TlsFiles {
    /// Changes when any of the files does.
    pub(crate) fn stamp(&self) -> Vec<Option<SystemTime>> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
            .collect()
    }

    fn load(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("reading the private key {}", self.key.display()))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .context("choosing TLS versions")?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .context("reading an authority for client certificates")?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .context("building the verifier of client certificates")?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .with_context(|| format!("using the certificate {}", self.cert.display()))?;
        config.ticketer =
            rustls::crypto::aws_lc_rs::Ticketer::new().context("making ticket keys")?;
        // One ticket is enough for a client that comes back; each costs a record per handshake.
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("reading certificates from {}", path.display()))?
        .collect();
    let found = found.with_context(|| format!("reading certificates from {}", path.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}

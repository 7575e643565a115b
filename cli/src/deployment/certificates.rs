//! The certificate authority and the proxies' certificate of a cluster made by `up`.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::path::Path;

/// Files of a cluster's TLS folder.
pub(crate) const CA_CERT: &str = "ca.crt";
pub(crate) const SERVER_CERT: &str = "proxy.crt";
pub(crate) const SERVER_KEY: &str = "proxy.key";
const CA_KEY: &str = "ca.key";

/// Writes a new authority (`ca.crt`) and a certificate for `names` (host names or IP addresses;
/// `proxy.crt`, `proxy.key`) into `folder`.
pub fn create(folder: &Path, names: &[String]) -> anyhow::Result<()> {
    let authority = CertifiedIssuer::self_signed(authority_params()?, KeyPair::generate()?)
        .context("make the certificate authority")?;
    let key = KeyPair::generate()?;
    let certificate = server_params(names)?
        .signed_by(&key, &authority)
        .context("sign the proxies' certificate")?;
    super::files::write_public(&folder.join(CA_CERT), authority.pem().as_bytes())?;
    super::files::write_secret(&folder.join(CA_KEY), authority.key().serialize_pem().as_bytes())?;
    super::files::write_public(&folder.join(SERVER_CERT), certificate.pem().as_bytes())?;
    super::files::write_secret(&folder.join(SERVER_KEY), key.serialize_pem().as_bytes())
}

fn authority_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "Holdfast cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server_params(names: &[String]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "Holdfast proxy");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

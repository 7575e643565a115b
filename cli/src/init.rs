//! `holdfast init`: the files of a deployment over several machines or containers.

use crate::cluster::ClusterFile;
use crate::deployment::certificates::{self, CA_CERT};
use crate::deployment::configs::{self, Deployment, NodeSite, ProxySite, SentinelSite, Site};
use crate::deployment::files;
use anyhow::{Context, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Ports of every machine's processes. Each process has a machine (or container) of its own.
const API_PORT: u16 = 26_379;
const METADATA_PORT: u16 = 26_380;
const LINK_PORT: u16 = 7001;
const PEER_PORT: u16 = 7002;
const HEARTBEAT_PORT: u16 = 7003;
const CONTROL_PORT: u16 = 7004;
const METRICS_PORT: u16 = 9100;
const TLS_PORT: u16 = 6379;

/// Write secrets, certificates and configuration files for several machines or containers.
///
/// Does nothing if the folder has them already. Copy `sentinel-N.toml`, `node-N.toml` and
/// `proxy-N.toml` to their machines, with `secret` (and, to the proxies, `tls/`).
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct InitArgs {
    /// Folder to write into.
    #[arg(long)]
    dir: PathBuf,
    /// Where this folder will lie on the machines [default: --dir].
    #[arg(long)]
    config_dir: Option<PathBuf>,
    /// Where the processes keep their data.
    #[arg(long, default_value = "/data")]
    data_dir: PathBuf,
    /// Host name of a sentinel; 1, 3 or 5 times.
    #[arg(long = "sentinel", required = true, value_name = "HOST")]
    sentinels: Vec<String>,
    /// Host name of a node, with its failure domain if it has one.
    #[arg(long = "node", required = true, value_name = "HOST[=ZONE]")]
    nodes: Vec<String>,
    /// Address under which clients reach a proxy. Every proxy listens on port 6379.
    #[arg(long = "proxy", required = true, value_name = "HOST:PORT")]
    proxies: Vec<String>,
    /// Further names or addresses that the proxies' certificate is good for.
    #[arg(long)]
    certificate_name: Vec<String>,
    /// How many shards, 1 to 64.
    #[arg(long, default_value_t = 2)]
    shards: u32,
    /// How many copies of each shard's data.
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// How many logical databases.
    #[arg(long, default_value_t = 16)]
    databases: u32,
    /// none, rdb, aof-everysec or aof-always.
    #[arg(long, default_value = "aof-everysec",
          value_parser = ["none", "rdb", "aof-everysec", "aof-always"])]
    persistence: String,
    /// The password of user `default` [default: a generated one].
    #[arg(long, env = "HOLDFAST_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let cluster_file = args.dir.join(ClusterFile::NAME);
    if cluster_file.exists() {
        println!("{} exists: nothing to do", cluster_file.display());
        return Ok(());
    }
    let deployment = args.deployment()?;
    let tls = args.dir.join("tls");
    std::fs::create_dir_all(&tls).with_context(|| format!("create {}", tls.display()))?;
    certificates::create(&tls, &args.certificate_names(&deployment))?;
    let written = configs::write(&args.dir, &deployment)?;
    // Last: its presence says that the folder is complete.
    let file = ClusterFile {
        cluster_id: deployment.cluster_id.clone(),
        secret: deployment.secret.clone(),
        sentinels: deployment.sentinel_addresses(),
        uris: deployment.uris(),
        ca_cert: deployment.tls_dir.join(CA_CERT),
    };
    let text = toml::to_string(&file).context("write the cluster file")?;
    files::write_secret(&cluster_file, text.as_bytes())?;
    println!("wrote {} configurations into {}", written.len(), args.dir.display());
    Ok(())
}

impl InitArgs {
    fn deployment(&self) -> anyhow::Result<Deployment> {
        if ![1, 3, 5].contains(&self.sentinels.len()) {
            bail!("give --sentinel 1, 3 or 5 times");
        }
        if !(1..=64).contains(&self.shards) {
            bail!("--shards must be 1 to 64");
        }
        if self.replicas == 0 || self.replicas as usize > self.nodes.len() {
            bail!("--replicas must be 1 to the number of nodes ({})", self.nodes.len());
        }
        let config_dir: &Path = self.config_dir.as_deref().unwrap_or(&self.dir);
        let password = match &self.password {
            Some(password) if !password.is_empty() => password.clone(),
            _ => files::random_hex(16)?,
        };
        Ok(Deployment {
            cluster_id: files::random_hex(16)?,
            secret: files::random_hex(32)?,
            password,
            shards: self.shards,
            replicas: self.replicas,
            databases: self.databases,
            persistence: self.persistence.clone(),
            secret_file: config_dir.join("secret"),
            tls_dir: config_dir.join("tls"),
            sentinels: self.sentinels.iter().map(|host| self.sentinel(host)).collect(),
            nodes: self.nodes.iter().map(|host| self.node(host)).collect(),
            proxies: self.proxies.iter().map(|at| proxy(at)).collect::<Result<_, _>>()?,
        })
    }

    fn sentinel(&self, host: &str) -> SentinelSite {
        SentinelSite {
            site: everywhere(host),
            data_dir: self.data_dir.clone(),
            api: API_PORT,
            peer: METADATA_PORT,
            metrics: METRICS_PORT,
        }
    }

    fn node(&self, host: &str) -> NodeSite {
        let (host, zone) = host.split_once('=').unwrap_or((host, ""));
        NodeSite {
            site: everywhere(host),
            zone: zone.to_owned(),
            data_dir: self.data_dir.clone(),
            link: LINK_PORT,
            peer: PEER_PORT,
            heartbeat: HEARTBEAT_PORT,
            control: CONTROL_PORT,
            metrics: METRICS_PORT,
        }
    }

    fn certificate_names(&self, deployment: &Deployment) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let proxies = deployment.proxies.iter().map(|proxy| proxy.site.host.clone());
        names.extend(proxies.chain(self.certificate_name.iter().cloned()));
        names.sort();
        names.dedup();
        names
    }
}

fn everywhere(host: &str) -> Site {
    Site { host: host.to_owned(), listen: Ipv4Addr::UNSPECIFIED.into() }
}

fn proxy(address: &str) -> anyhow::Result<ProxySite> {
    let parsed = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let Some((host, port)) = parsed else { bail!("--proxy {address} is not HOST:PORT") };
    Ok(ProxySite {
        site: everywhere(host.trim_start_matches('[').trim_end_matches(']')),
        tls: TLS_PORT,
        plain: None,
        announce_port: Some(port),
        admin: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), METRICS_PORT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        init: InitArgs,
    }

    fn args(dir: &Path, more: &[&str]) -> InitArgs {
        let dir = dir.display().to_string();
        let mut line = vec!["init", "--dir", &dir, "--config-dir", "/config"];
        line.extend(["--sentinel", "s1", "--sentinel", "s2", "--sentinel", "s3"]);
        line.extend(["--node", "n1=a", "--node", "n2=b", "--node", "n3"]);
        line.extend(["--proxy", "127.0.0.1:6379", "--proxy", "db.example:6380"]);
        line.extend(more);
        Cli::parse_from(line).init
    }

    #[test]
    fn every_file_is_one_that_its_process_accepts() {
        let dir = tempfile::tempdir().unwrap();
        run(&args(dir.path(), &[])).unwrap();
        for index in 1..=3 {
            let file = |role: &str| dir.path().join(format!("{role}-{index}.toml"));
            let sentinel = holdfast_sentinel::Config::from_file(&file("sentinel")).unwrap();
            assert_eq!(sentinel.members[2].api_addr, "s3:26379");
            let node = holdfast_node::Config::from_file(&file("node")).unwrap();
            assert_eq!(node.advertise_host, Some(format!("n{index}")));
            assert_eq!(node.zone, ["a", "b", ""][index - 1]);
        }
        let proxy = dir.path().join("proxy-2.toml");
        let proxy = holdfast_proxy::Config::from_file(&proxy).unwrap();
        assert_eq!(proxy.announce_host.as_deref(), Some("db.example"));
        assert_eq!(proxy.announce_port, Some(6380));
        assert_eq!(proxy.tls_key_file, Some(PathBuf::from("/config/tls/proxy.key")));
        let file = ClusterFile::load(&dir.path().join(ClusterFile::NAME)).unwrap();
        assert!(file.uris[1].ends_with("@db.example:6380"), "{:?}", file.uris);
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        run(&args(dir.path(), &["--password", "one"])).unwrap();
        let before = std::fs::read(dir.path().join("sentinel-1.toml")).unwrap();
        run(&args(dir.path(), &["--password", "two"])).unwrap();
        assert_eq!(std::fs::read(dir.path().join("sentinel-1.toml")).unwrap(), before);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for more in [["--replicas", "4"], ["--shards", "65"], ["--sentinel", "s4"]] {
            assert!(run(&args(dir.path(), &more)).is_err(), "{more:?}");
        }
        assert!(run(&args(dir.path(), &["--proxy", "nowhere"])).is_err());
        assert!(!dir.path().join(ClusterFile::NAME).exists());
    }
}

//! `holdfast connection`.

use crate::cluster::ClusterArgs;
use anyhow::Context;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct ConnectionArgs {
    /// Print the certificate authority (PEM) in place of the addresses.
    #[arg(long)]
    ca: bool,
    /// Where the authority's file lies for the client, if not where it lies here.
    #[arg(long)]
    cacert: Option<PathBuf>,
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) fn run(args: &ConnectionArgs, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let file = cluster.file()?;
    if args.ca {
        let pem = std::fs::read_to_string(&file.ca_cert)
            .with_context(|| format!("read {}", file.ca_cert.display()))?;
        print!("{pem}");
        return Ok(());
    }
    let ca_cert = args.cacert.as_ref().unwrap_or(&file.ca_cert);
    if cluster.json {
        let value = serde_json::json!({ "uris": file.uris, "ca_cert": ca_cert });
        println!("{value}");
        return Ok(());
    }
    for uri in &file.uris {
        println!("{uri}");
    }
    if let Some(uri) = file.uris.first() {
        println!("REDIS_URL={uri}");
        println!("redis-cli -u '{uri}' --cacert {}", ca_cert.display());
    }
    Ok(())
}

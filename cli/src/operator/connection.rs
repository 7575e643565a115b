//! `holdfast connection`.

use crate::cluster::ClusterArgs;

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) fn run(cluster: &ClusterArgs) -> anyhow::Result<()> {
    let file = cluster.file()?;
    if cluster.json {
        let value = serde_json::json!({ "uris": file.uris, "ca_cert": file.ca_cert });
        println!("{value}");
        return Ok(());
    }
    for uri in &file.uris {
        println!("{uri}");
    }
    if let Some(uri) = file.uris.first() {
        println!("REDIS_URL={uri}");
        println!("redis-cli -u '{uri}' --cacert {}", file.ca_cert.display());
    }
    Ok(())
}

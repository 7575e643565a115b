//! `holdfast parameters`: the cluster's settings, by the names of redis.conf.

use crate::cluster::ClusterArgs;
use anyhow::{Context, bail};
use holdfast_proto::parameters::{self, Scope};
use holdfast_proto::{glob, placement, v1};
use std::collections::BTreeMap;

#[derive(clap::Subcommand)]
pub(crate) enum ParametersCommand {
    /// Show parameters and their values.
    Get {
        /// Glob pattern of the names.
        #[arg(default_value = "*")]
        pattern: String,
    },
    /// Change parameters of the running cluster: all of them or none.
    Set {
        /// `name=value`, any number of them.
        #[arg(required = true)]
        changes: Vec<String>,
    },
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) async fn run(command: &ParametersCommand, cluster: &ClusterArgs) -> anyhow::Result<()> {
    match command {
        ParametersCommand::Get { pattern } => {
            let spec = present(cluster).await?;
            let found: BTreeMap<&str, String> = parameters::PARAMETERS
                .iter()
                .filter(|p| p.scope == Scope::Cluster && p.name != parameters::REQUIREPASS)
                .filter(|p| glob::matches(pattern.as_bytes(), p.name.as_bytes()))
                .map(|p| {
                    let set = spec.settings.get(p.name).cloned();
                    (p.name, set.unwrap_or_else(|| p.default.to_owned()))
                })
                .collect();
            if cluster.json {
                println!("{}", serde_json::to_string(&found)?);
            } else {
                for (name, value) in found {
                    println!("{name:34} {value}");
                }
            }
        }
        ParametersCommand::Set { changes } => {
            let mut settings = BTreeMap::new();
            for change in changes {
                let (name, value) = change
                    .split_once('=')
                    .with_context(|| format!("'{change}' is not name=value"))?;
                if name.eq_ignore_ascii_case(placement::SETTING) {
                    bail!(
                        "{name} is changed with `holdfast colocation`, which looks for keys first"
                    );
                }
                settings.insert(name.to_owned(), value.to_owned());
            }
            cluster.access()?.set_settings(settings).await?;
        }
    }
    Ok(())
}

/// The specification and settings of the cluster now.
pub(super) async fn present(cluster: &ClusterArgs) -> anyhow::Result<v1::ClusterSpec> {
    let topology = cluster.access()?.status().await?.topology.context("no topology")?;
    topology.spec.context("the cluster is not founded yet")
}

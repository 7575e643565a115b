//! Fetching a checkpoint from the leader, for a replica that is too far behind its log.

use crate::checkpoint_files::Writer;
use anyhow::Context;
use holdfast_proto::ids::{LogIndex, Term};
use holdfast_proto::v1;
use holdfast_proto::v1::checkpoint_source_client::CheckpointSourceClient;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Without a chunk for this long the source is given up.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Pulls the checkpoint at `index` into `folder`; durable and checked when this returns.
pub(crate) async fn pull(
    source: &str,
    secret: &[u8],
    shard: u32,
    folder: &Path,
    index: LogIndex,
    term: Term,
) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{source}"))?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await?;
    let request =
        v1::PullRequest { secret: secret.to_vec().into(), shard, index: index.0, term: term.0 };
    let mut chunks = CheckpointSourceClient::new(channel).pull(request).await?.into_inner();
    let mut writer = Writer::create(folder, "pulled")?;
    let mut total = None;
    loop {
        let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()).await;
        let Some(chunk) = chunk.context("the source sends nothing")?? else { break };
        anyhow::ensure!(chunk.offset == writer.len_bytes(), "a chunk is missing");
        anyhow::ensure!(crc32fast::hash(&chunk.data) == chunk.crc32, "a chunk is damaged");
        total.get_or_insert(chunk.total_len);
        writer.write(&chunk.data);
    }
    anyhow::ensure!(total == Some(writer.len_bytes()), "the checkpoint is cut");
    // Syncing takes its time, and other orders share this runtime.
    tokio::task::spawn_blocking(move || writer.finish(index)).await??;
    Ok(())
}

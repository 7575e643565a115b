//! Opening a replica from what is on disk: the checkpoint that the log records, and the log.

use crate::checkpoint_files::{self, CheckedReader, CheckpointFile};
use crate::identity::DataDir;
use anyhow::Context;
use holdfast_consensus::log::writer::LogWriterHandle;
use holdfast_consensus::{LogReader, StoredState};
use holdfast_engine::{Engine, EngineConfig};
use holdfast_proto::ids::{LogIndex, RaftId, ShardId};
use holdfast_proto::v1;
use std::path::Path;
use std::time::Instant;

/// A replica as found on disk.
pub(crate) struct Found {
    pub(crate) engine: Engine,
    /// The index of the state in `engine`.
    pub(crate) applied: LogIndex,
    /// `None`: the replica begins.
    pub(crate) stored: Option<StoredState>,
    pub(crate) reader: Box<dyn LogReader>,
}

/// Why a replica does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It may have lost acknowledged entries; the sentinels replace it.
    #[error("{0}")]
    Amnesia(String),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// The settings of a shard's engine; the same on all its replicas and for good.
pub(crate) fn engine_config(
    cluster_id: &[u8; 16],
    shard: ShardId,
    spec: &v1::ClusterSpec,
) -> EngineConfig {
    let half = |bytes: &[u8]| bytes.iter().fold(0, |acc, byte| (acc << 8) | u64::from(*byte));
    let (high, low) = cluster_id.split_at(8);
    let databases = u16::try_from(spec.databases).unwrap_or(u16::MAX);
    EngineConfig {
        databases: if databases == 0 { 16 } else { databases },
        hash_seed: half(high) ^ half(low).rotate_left(shard.0),
        ..EngineConfig::default()
    }
}

/// Finds or begins the replica. Blocks on disk and on the log writer.
pub(crate) fn open(
    data: &DataDir,
    log: &LogWriterHandle,
    shard: ShardId,
    raft_id: RaftId,
    config: EngineConfig,
) -> Result<Found, OpenError> {
    let folder = data.shard_dir(shard.0);
    let (mut stored, reader) = load_log(log, shard)?;
    if let Some(former) = stored.take_if(|stored| stored.raft_id != raft_id) {
        tracing::info!(%shard, former = %former.raft_id, now = %raft_id, "replica was replaced");
        destroy(data, log, shard)?;
    }
    // A state without a checkpoint is the empty one, whose index is the founding members'.
    let recorded = stored.as_ref().map_or(LogIndex(0), |stored| stored.checkpoint.index);
    let engine = if recorded <= StoredState::GENESIS {
        Engine::new(config)
    } else {
        load_checkpoint(&folder, shard, recorded, config)
            .map_err(|error| OpenError::Amnesia(format!("{error:#}")))?
    };
    Ok(Found { engine, applied: recorded, stored, reader })
}

/// Removes everything of a replica.
pub(crate) fn destroy(data: &DataDir, log: &LogWriterHandle, shard: ShardId) -> anyhow::Result<()> {
    log.destroy(shard);
    let folder = data.shard_dir(shard.0);
    checkpoint_files::remove_all(&folder).with_context(|| format!("remove {}", folder.display()))
}

fn load_log(
    log: &LogWriterHandle,
    shard: ShardId,
) -> anyhow::Result<(Option<StoredState>, Box<dyn LogReader>)> {
    let loaded = log.load(shard).context("the log writer stopped")?;
    loaded.with_context(|| format!("{shard}: read the log"))
}

/// Loads the checkpoint at `index`, every byte checked.
pub(crate) fn load_checkpoint(
    folder: &Path,
    shard: ShardId,
    index: LogIndex,
    config: EngineConfig,
) -> anyhow::Result<Engine> {
    let begun = Instant::now();
    let files = checkpoint_files::list(folder)?;
    let file = files.into_iter().find(|file| file.index == index);
    let file = file.with_context(|| format!("{shard}: there is no whole checkpoint at {index}"))?;
    let engine = load_file(folder, &file, config)
        .with_context(|| format!("{shard}: load the checkpoint at {index}"))?;
    let ms = begun.elapsed().as_millis() as u64;
    tracing::info!(%shard, %index, bytes = file.len_bytes, ms, "checkpoint loaded");
    Ok(engine)
}

fn load_file(folder: &Path, file: &CheckpointFile, config: EngineConfig) -> anyhow::Result<Engine> {
    let mut reader = CheckedReader::open(folder, file)?;
    let engine = Engine::load(config, &mut reader)?;
    reader.verify()?;
    Ok(engine)
}

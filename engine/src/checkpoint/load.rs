//! Loading a checkpoint, or any RDB file: one pass over the stream, buffers reused.

use super::sections::{self, Head, Section, Totals};
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::entry::Entry;
use crate::hash;
use crate::rdb::decode::{Decoder, Source, Stream};
use crate::rdb::{self, kind, opcode};
use holdfast_proto::slot::Slot;
use std::io::Read;

/// Tables are made large enough in advance for what the file announces. Announcing costs a
/// forger nothing, so in total it may exceed twice the keys seen by this much at most.
const ANNOUNCED_KEYS_FREE: u64 = 1 << 16;

/// Why a file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file's fault, or the reader's ([`rdb::Error::Io`]).
    #[error(transparent)]
    Format(#[from] rdb::Error),
    #[error("not an RDB file")]
    Magic,
    #[error("a section of the checkpoint is corrupt")]
    Section,
    #[error("the checkpoint was written by a newer version (sections {0})")]
    SectionsVersion(u64),
    #[error("the checkpoint lacks keys or lanes that it says it has")]
    Incomplete,
    #[error("a library of functions cannot be loaded: {0}")]
    Library(String),
    #[error("a key stands twice in the file")]
    DuplicateKey,
    #[error("database {0} is out of range")]
    DatabaseOutOfRange(u64),
}

impl Engine {
    /// Makes an engine from a checkpoint or from an RDB file of Redis 2.4 to 7.2.
    ///
    /// A checkpoint's own hash seed and number of databases take the place of those in `cfg`: they
    /// are replicated state. Keys whose time has come are kept (the log decides when they go).
    pub fn load(cfg: EngineConfig, reader: impl Read) -> Result<Self, LoadError> {
        let mut loader = Loader::new(cfg, reader)?;
        loader.run()?;
        Ok(loader.engine)
    }
}

struct Loader<R> {
    engine: Engine,
    input: Decoder<Stream<R>>,
    version: u16,
    db: u16,
    expire_at: Option<u64>,
    key: Vec<u8>,
    head: Option<Head>,
    end: Option<Totals>,
    loaded: Totals,
    /// Keys announced for the slots so far.
    announced: u64,
    /// What was announced last: database, slot, keys.
    announcement: Option<(u16, (Slot, usize))>,
}

impl<R: Read> Loader<R> {
    fn new(cfg: EngineConfig, reader: R) -> Result<Self, LoadError> {
        let mut input = Decoder::new(Stream::new(reader));
        let magic = input.source.array::<9>()?;
        let version = magic.strip_prefix(b"REDIS").ok_or(LoadError::Magic)?;
        let version = std::str::from_utf8(version).ok().and_then(|text| text.parse().ok());
        let version: u16 = version.ok_or(LoadError::Magic)?;
        if version == 0 || version > rdb::VERSION_READ_MAX {
            return Err(rdb::Error::Version(version.into()).into());
        }
        hash::enter(cfg.hash_seed);
        Ok(Self {
            engine: Engine::new(cfg),
            input,
            version,
            db: 0,
            expire_at: None,
            key: Vec::new(),
            head: None,
            end: None,
            loaded: Totals::default(),
            announced: 0,
            announcement: None,
        })
    }

    fn run(&mut self) -> Result<(), LoadError> {
        loop {
            match self.input.byte()? {
                opcode::EOF => return self.finish(),
                opcode::SELECTDB => self.select()?,
                opcode::EXPIRETIME_MS => {
                    self.expire_at = Some(u64::from_le_bytes(self.input.source.array()?));
                }
                opcode::EXPIRETIME => {
                    let seconds = u32::from_le_bytes(self.input.source.array()?);
                    self.expire_at = Some(u64::from(seconds) * 1000);
                }
                opcode::RESIZEDB => {
                    // Sizes of whole databases say nothing about those of slots.
                    self.input.length()?;
                    self.input.length()?;
                }
                opcode::IDLE => {
                    self.input.length()?;
                }
                opcode::FREQ => {
                    self.input.byte()?;
                }
                opcode::AUX => self.auxiliary()?,
                opcode::FUNCTION_2 => {
                    let code = self.input.string()?;
                    let loaded = self.engine.space.scripting.load_library(code, false);
                    loaded.map_err(LoadError::Library)?;
                }
                opcode::FUNCTION_PRE_GA => {
                    return Err(rdb::Error::NotSupported("functions").into());
                }
                opcode::MODULE_AUX => return Err(rdb::Error::NotSupported("modules").into()),
                kind => self.key_of(kind)?,
            }
        }
    }

    fn select(&mut self) -> Result<(), LoadError> {
        let db = self.input.length()?;
        self.db = u16::try_from(db)
            .ok()
            .filter(|&db| usize::from(db) < self.engine.space.dbs.len())
            .ok_or(LoadError::DatabaseOutOfRange(db))?;
        Ok(())
    }

    fn key_of(&mut self, kind: u8) -> Result<(), LoadError> {
        self.key.clear();
        self.key.extend_from_slice(self.input.string()?);
        let expire_at = self.expire_at.take();
        let entry = if kind == kind::STRING {
            Entry::new_string(&self.key, self.input.string()?, expire_at)
        } else {
            let value = rdb::value::read(kind, &mut self.input, &self.engine.cfg.limits)?;
            Entry::new(&self.key, value, expire_at)
        };
        let announced = self.announcement.filter(|(db, _)| *db == self.db);
        let announced = announced.map(|(_, announced)| announced);
        if !self.engine.space.load_entry(self.db, entry, announced) {
            return Err(LoadError::DuplicateKey);
        }
        self.loaded.keys += 1;
        Ok(())
    }

    fn auxiliary(&mut self) -> Result<(), LoadError> {
        self.key.clear();
        self.key.extend_from_slice(self.input.string()?);
        let value = self.input.string()?;
        match &self.key[..] {
            sections::HEAD => {
                let head = Section::open(value)?.head()?;
                self.begin(head)?;
            }
            sections::WATCH => Section::open(value)?.watch(self.engine.space.versions_mut())?,
            sections::RETIRED => {
                for worker in Section::open(value)?.retired()? {
                    self.engine.lanes.retire(worker);
                }
            }
            sections::WAITERS => {
                for waiter in Section::open(value)?.waiters()? {
                    self.engine.space.waiters.add(waiter);
                }
            }
            sections::SCRIPTS => {
                for (body, loaded) in Section::open(value)?.scripts()? {
                    self.engine.space.scripting.cache.insert(&body, loaded);
                }
            }
            sections::LANES => {
                let (slot, lanes) = Section::open(value)?.lanes()?;
                self.loaded.lanes += lanes.len() as u64;
                for lane in lanes {
                    self.engine.lanes.restore(slot, lane);
                }
            }
            sections::SLOT_SIZE => {
                let (db, slot, keys) = Section::open(value)?.slot_size()?;
                self.announce(db, slot, keys);
            }
            sections::END => self.end = Some(Section::open(value)?.totals()?),
            _ => {}
        }
        Ok(())
    }

    /// The first section: the engine is made again with the replicated settings.
    fn begin(&mut self, head: Head) -> Result<(), LoadError> {
        if self.head.is_some() || self.loaded != Totals::default() || head.databases == 0 {
            return Err(LoadError::Section);
        }
        let cfg = EngineConfig {
            hash_seed: head.hash_seed,
            databases: head.databases,
            ..self.engine.cfg.clone()
        };
        hash::enter(cfg.hash_seed);
        self.engine = Engine::new(cfg);
        self.engine.time_ms = head.time_ms;
        self.head = Some(head);
        Ok(())
    }

    fn announce(&mut self, db: u16, slot: Slot, keys: u64) {
        let free = (self.loaded.keys * 2 + ANNOUNCED_KEYS_FREE).saturating_sub(self.announced);
        let keys = keys.min(free);
        self.announced += keys;
        self.announcement = Some((db, (slot, keys as usize)));
    }

    fn finish(&mut self) -> Result<(), LoadError> {
        let computed = self.input.source.checksum();
        // Files before version 5 end here; 0 stands for "not computed" (`rdbchecksum no`), which
        // checkpoints never have.
        if self.version >= 5 {
            let stored = u64::from_le_bytes(self.input.source.array()?);
            if stored != computed && (stored != 0 || self.head.is_some()) {
                return Err(rdb::Error::Checksum.into());
            }
        }
        if self.head.is_some() && self.end != Some(self.loaded) {
            return Err(LoadError::Incomplete);
        }
        Ok(())
    }
}

//! Runs every fuzz target: the kept corpus, then seeded mutations of it.
//!
//! - `HOLDFAST_FUZZ_ROUNDS`: mutated inputs per target (default 400).
//! - `HOLDFAST_FUZZ_SECONDS`: instead, so many seconds per target.
//! - `HOLDFAST_FUZZ_SEED`: where the mutations begin (default 1).
//! - `HOLDFAST_FUZZ_KEEP=1`: adds inputs that did something new to the corpus.
//!
//! An input that panics or takes too long is written to `fuzz/crashes/`; a process that dies leaves the
//! input it died of in `fuzz/crashes/<target>.running` (in runs by seconds). An input that was fixed goes
//! to the corpus.

use holdfast_fuzz::mutate::{Rng, mutate};
use holdfast_fuzz::{TARGETS, Target};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Inputs that are mutated, at most; the newest replace random others.
const POOL_MAX: usize = 4000;
/// An input may take this long. Far above what is needed, for slow machines.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

fn setting(name: &str) -> Option<u64> {
    std::env::var(format!("HOLDFAST_FUZZ_{name}")).ok().map(|text| text.parse().expect("a number"))
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(folder("corpus").join(target.name)) else {
        return Vec::new();
    };
    let mut files: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a readable file")).collect()
}

/// The signature of an input; a panic or a hang fails the test and keeps the input.
fn run(target: &Target, input: &[u8]) -> u64 {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    match result {
        Ok(signature) if start.elapsed() < INPUT_TIME_MAX => signature,
        _ => {
            let file = write(&folder("crashes"), &format!("{}-", target.name), input);
            panic!("{} fails on {}", target.name, file.display());
        }
    }
}

fn write(folder: &Path, prefix: &str, input: &[u8]) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a writable folder");
    let name = holdfast_engine::rdb::crc64::update(0, input);
    let file = folder.join(format!("{prefix}{name:016x}"));
    std::fs::write(&file, input).expect("a writable file");
    file
}

fn fuzz(target: &Target) {
    let mut rng = Rng(setting("SEED").unwrap_or(1));
    let seconds = setting("SECONDS").map(Duration::from_secs);
    let rounds = setting("ROUNDS").unwrap_or(400);
    let keep = setting("KEEP").is_some();
    let mut pool = (target.seeds)();
    pool.extend(corpus(target));
    let mut seen: HashSet<u64> = pool.iter().map(|input| run(target, input)).collect();
    assert!(!pool.is_empty());
    let running = folder("crashes").join(format!("{}.running", target.name));
    if seconds.is_some() {
        std::fs::create_dir_all(folder("crashes")).expect("a writable folder");
    }
    let start = Instant::now();
    let mut round = 0;
    loop {
        let enough = match seconds {
            Some(seconds) => start.elapsed() >= seconds,
            None => round >= rounds,
        };
        if enough {
            break;
        }
        round += 1;
        // New finds are mutated more often than old ones.
        let newest = pool.len().saturating_sub(50);
        let at = if rng.below(2) == 0 {
            newest + rng.below(pool.len() - newest)
        } else {
            rng.below(pool.len())
        };
        let other = rng.below(pool.len());
        let input = mutate(&pool[at], &pool[other], target.resp, &mut rng);
        if seconds.is_some() {
            std::fs::write(&running, &input).expect("a writable file");
        }
        if seen.insert(run(target, &input)) {
            if keep && input.len() < 2048 {
                write(&folder("corpus").join(target.name), "", &input);
            }
            if pool.len() >= POOL_MAX {
                let gone = rng.below(pool.len());
                pool.swap_remove(gone);
            }
            pool.push(input);
        }
    }
    if seconds.is_some() {
        std::fs::remove_file(&running).expect("the file was written");
    }
    eprintln!("{}: {round} inputs, {} kinds of result", target.name, seen.len());
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            let target = TARGETS.iter().find(|target| target.name == stringify!($name));
            fuzz(target.expect("a target of this name"));
        })+

        #[test]
        fn every_target_is_run() {
            let named = [$(stringify!($name)),+];
            assert!(TARGETS.iter().all(|target| named.contains(&target.name)));
        }
    };
}

targets!(resp_requests, resp_replies, link_frames, log_records, commands, rdb_files, dump_payloads,);

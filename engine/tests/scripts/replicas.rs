//! What replicas must agree on: scripts in the log, in checkpoints, and bounded to their slot.

use super::Logged;
use super::common::Target;
use holdfast_engine::{CheckpointStep, Engine, EngineConfig};
use holdfast_proto::frame::flags;
use holdfast_proto::resp::Value;
use holdfast_proto::slot::Slot;

fn checkpoint(engine: &mut Engine) -> Vec<u8> {
    engine.checkpoint_begin();
    let mut bytes = Vec::new();
    while engine.checkpoint_step(1 << 16, &mut bytes) == CheckpointStep::More {}
    bytes
}

const LIBRARY: &str = "#!lua name=counter
local calls = 0
redis.register_function('hit', function(keys) calls = calls + 1 redis.call('incrby', keys[1], calls) return calls end)";

#[test]
fn a_checkpoint_holds_scripts_and_functions() {
    let mut first = Logged::new();
    let sha = first.run("SCRIPT LOAD return{KEYS[1]}");
    let sha = String::from_utf8(sha.as_bytes().unwrap().to_vec()).unwrap();
    first.eval("return 'evaluated'");
    first.call(&[b"FUNCTION", b"LOAD", LIBRARY.as_bytes()]);
    first.run("FCALL hit 1 n");
    first.run("FCALL hit 1 n");
    let bytes = checkpoint(&mut first.engine);
    let loaded = Engine::load(EngineConfig::default(), &bytes[..]).expect("loads");
    assert_eq!(loaded.digest(), first.engine.digest());
    let mut second = Logged::with(loaded);
    for command in [
        format!("EVALSHA {sha} 1 key"),
        "FCALL hit 1 n".to_owned(),
        "FCALL hit 1 n".to_owned(),
        "FUNCTION LIST WITHCODE".to_owned(),
        "FUNCTION STATS".to_owned(),
        format!("SCRIPT EXISTS {sha} 3f6ba04ba7dcd1d9a8dbdb1f7bc3b43a5ea9d3ce"),
        "GET n".to_owned(),
    ] {
        assert_eq!(first.run(&command), second.run(&command), "{command}");
    }
    assert_eq!(first.engine.digest(), second.engine.digest());
    assert_eq!(second.run("GET n"), Value::Bulk("4".into()));
}

#[test]
fn a_stock_server_loads_the_functions_of_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut ours = Logged::new();
    ours.call(&[b"FUNCTION", b"LOAD", LIBRARY.as_bytes()]);
    ours.run("SCRIPT LOAD return{KEYS[1]}");
    ours.run("SET k v");
    std::fs::write(folder.path().join("dump.rdb"), checkpoint(&mut ours.engine)).unwrap();
    let Some(mut redis) = super::Redis::start(folder.path(), &[]) else { return };
    assert_eq!(redis.run("FCALL hit 1 n"), Value::Integer(1));
    assert_eq!(redis.run("GET k"), Value::Bulk("v".into()));
    // And back.
    assert!(!redis.run("SAVE").is_error());
    let file = std::fs::read(folder.path().join("dump.rdb")).unwrap();
    let mut again = Logged::with(Engine::load(EngineConfig::default(), &file[..]).expect("loads"));
    assert_eq!(again.run("FCALL hit 1 n"), Value::Integer(1));
}

#[test]
fn replicas_with_different_pasts_compute_the_same() {
    super::on_large_stack(run_on_both);
}

fn run_on_both() {
    // One has run everything, the other was restored between any two scripts.
    let scripts = super::corpus::scripts();
    let mut first = Logged::new();
    let mut second = Logged::new();
    for (index, script) in scripts.iter().enumerate() {
        let call: [&[u8]; 7] = [b"EVAL", script.as_bytes(), b"2", b"k1", b"k2", b"arg1", b"2.5"];
        assert_eq!(first.raw(&call), second.raw(&call), "{script}");
        if index % 37 == 0 {
            let bytes = checkpoint(&mut second.engine);
            let seq = second.seq;
            second = Logged::with(Engine::load(EngineConfig::default(), &bytes[..]).unwrap());
            second.seq = seq;
        }
    }
    assert_eq!(first.engine.digest(), second.engine.digest());
}

#[test]
fn a_script_keeps_to_its_slot_when_told_to() {
    const REFUSED: &str = "ERR Script attempted to access a non local key in a cluster node";
    let mut engine = Logged::new();
    engine.frame_flags = flags::ONE_SLOT;
    engine.slot = Slot::of_key(b"{a}1");
    let inside = "return redis.call('set', '{a}2', 'x')";
    assert_eq!(engine.eval(inside), Value::Simple("OK".into()));
    assert!(engine.text("return redis.call('set', 'b', 'x')").starts_with(REFUSED));
    assert!(engine.text("return redis.call('mget', '{a}1', 'b')").starts_with(REFUSED));
    engine.frame_flags = flags::ONE_SLOT | flags::KEYLESS;
    assert!(engine.text(inside).starts_with(REFUSED));
    assert_eq!(engine.eval("return 5"), Value::Integer(5));
    engine.frame_flags = 0;
    assert_eq!(engine.eval("return redis.call('set', 'b', 'x')"), Value::Simple("OK".into()));
}

#[test]
fn read_only_scripts_are_reads() {
    let mut engine = Logged::new();
    engine.run("SET k v");
    let read = engine.read(&[b"EVAL_RO", b"return redis.call('get', KEYS[1])", b"1", b"k"]);
    assert_eq!(read, Some(Value::Bulk("v".into())));
    assert_eq!(engine.read(&[b"EVAL", b"return 1", b"0"]), None);
    assert_eq!(engine.read(&[b"SCRIPT", b"LOAD", b"return 1"]), None);
    assert!(engine.read(&[b"SCRIPT", b"EXISTS", b"x"]).is_some());
    let write = engine.read(&[b"EVAL_RO", b"return redis.call('set', 'k', 'x')", b"0"]);
    assert!(write.is_some_and(|reply| reply.is_error()));
    assert_eq!(engine.run("GET k"), Value::Bulk("v".into()));
    // A key that is due must be expired by the log first.
    engine.run("PEXPIREAT k 2000000000010");
    for _ in 0..20 {
        engine.seq += 1;
    }
    assert_eq!(engine.read(&[b"EVAL_RO", b"return redis.call('get', KEYS[1])", b"1", b"k"]), None);
}

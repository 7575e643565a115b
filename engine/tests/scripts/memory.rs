//! Scripts while memory is short, beside a stock server.

use super::common::Target;
use super::{Logged, shown, stock};
use holdfast_proto::frame::flags;

const LIBRARY: &str = "#!lua name=lib
local function put() return redis.call('SET', 'f', 1) end
redis.register_function('plain', put)
redis.register_function{function_name='careless', callback=put, flags={'allow-oom'}}
redis.register_function{function_name='reader', callback=function() return redis.call('GET', 'x') end, flags={'no-writes'}}";

/// Run in this order with memory to spare.
const BEFORE: &[&[&str]] = &[
    &["FUNCTION", "LOAD", LIBRARY],
    &["MSET", "x", "1", "y", "1"],
    &["SCRIPT", "LOAD", "return redis.call('SET', 'x', 2)"],
    &["SCRIPT", "LOAD", "#!lua\nreturn 1"],
    &["SCRIPT", "LOAD", "#!lua flags=allow-oom\nreturn redis.call('SET', 'x', 3)"],
];

/// And then without.
const SHORT: &[&[&str]] = &[
    // Without flags a script may begin, and its first write decides.
    &["EVAL", "return redis.call('SET', 'x', 2)", "0"],
    &["EVALSHA", "c5f83c074a2820d285206e81ae0f5eba66d4e18a", "0"],
    &["EVAL", "return redis.call('GET', 'x')", "0"],
    &["EVAL", "return redis.pcall('SET', 'x', 2)", "0"],
    &["EVAL", "return {redis.call('DEL', 'y'), redis.call('SET', 'z', 1)}", "0"],
    &[
        "EVAL",
        "redis.pcall('LPUSH', 'l', 1) redis.call('DEL', 'y') return redis.call('INCR', 'n')",
        "0",
    ],
    &["EVAL", "redis.call('PUBLISH', 'c', 'm') return redis.call('SET', 'z', 1)", "0"],
    &["EVAL", "return redis.call('XGROUP', 'CREATE', 's', 'g', '$', 'MKSTREAM')", "0"],
    &["EVAL", "return redis.call('SET', 'z')", "0"],
    // With flags it is refused or runs as a whole.
    &["EVAL", "#!lua\nreturn 1", "0"],
    &["EVALSHA", "cb70127618f0b0be70c53cf6bfcfa54a29d9b0c0", "0"],
    &["EVAL", "#!lua flags=no-writes\nreturn redis.call('GET', 'x')", "0"],
    &["EVAL", "#!lua flags=allow-oom\nreturn redis.call('SET', 'x', 3)", "0"],
    &["EVAL", "#!lua flags=nosuch\nreturn 1", "0"],
    &["EVAL", "#!lua\nreturn 1 1", "0"],
    &["EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "0"],
    &["FCALL", "plain", "0"],
    &["FCALL", "careless", "0"],
    &["FCALL", "reader", "0"],
    &["FCALL_RO", "reader", "0"],
    &["FCALL", "nosuch", "0"],
    &["FUNCTION", "LOAD", "REPLACE", LIBRARY],
    &["FUNCTION", "RESTORE", "x"],
    &["FUNCTION", "DELETE", "lib"],
    &["SCRIPT", "LOAD", "return 'loaded'"],
    &["XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"],
    &["XGROUP", "DESTROY", "s", "g"],
    &["SET", "z", "1"],
    &["MGET", "x", "y", "z", "n", "f"],
];

#[test]
fn scripts_that_need_memory_are_refused_as_by_a_stock_server() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut ours = Logged::new();
    let mut failures = Vec::new();
    let mut compare = |redis: &mut dyn Target, ours: &mut dyn Target, command: &[&str]| {
        let args: Vec<&[u8]> = command.iter().map(|arg| arg.as_bytes()).collect();
        let (expected, found) = (redis.call(&args), ours.call(&args));
        if expected != found {
            let (expected, found) = (shown(&expected), shown(&found));
            failures.push(format!("{command:?}\n  redis: {expected}\n  ours:  {found}"));
        }
    };
    for command in BEFORE {
        compare(&mut redis, &mut ours, command);
    }
    redis.run("CONFIG SET maxmemory 1");
    ours.frame_flags = flags::OUT_OF_MEMORY;
    for command in SHORT {
        compare(&mut redis, &mut ours, command);
    }
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
}

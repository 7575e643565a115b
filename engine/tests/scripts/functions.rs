//! FUNCTION and FCALL beside a stock server.

use super::common::Target;
use super::{Logged, shown, stock};

const LIBRARY: &str = "#!lua name=mylib
local function get(keys, args) return redis.call('GET', keys[1]) end
local function put(keys, args) return redis.call('SET', keys[1], args[1]) end
redis.register_function('put', put)
redis.register_function{function_name='get', callback=get, flags={'no-writes'}, description='reads'}
redis.register_function('fail', function() error('failed') end)
redis.register_function('bad', function() return redis.call('nosuch') end)
redis.register_function('both', function(keys, args) return {keys, args} end)
redis.register_function('count', function(keys, args) return #keys * 10 + #args end)";

/// Commands, arguments separated by `|`; `\n` stands for a line break.
const COMMANDS: &[&str] = &[
    "FUNCTION|LIST",
    "FUNCTION|STATS",
    "FUNCTION|LOAD|return 1",
    "FUNCTION|LOAD|#!lua",
    "FUNCTION|LOAD|#!lua\nreturn 1",
    "FUNCTION|LOAD|#!lua name=\nreturn 1",
    "FUNCTION|LOAD|#!lua name=a-b\nreturn 1",
    "FUNCTION|LOAD|#!lua name=a name=b\nreturn 1",
    "FUNCTION|LOAD|#!lua name=a x=y\nreturn 1",
    "FUNCTION|LOAD|#!python name=a\nreturn 1",
    "FUNCTION|LOAD|#!lua name=a\nreturn 1",
    "FUNCTION|LOAD|#!lua name=a\nx x",
    "FUNCTION|LOAD|#!lua name=a\nlocal x = nil; x()",
    "FUNCTION|LOAD|#!lua name=a\nredis.call('get', 'x')",
    "FUNCTION|LOAD|#!lua name=a\nreturn KEYS[1]",
    "FUNCTION|LOAD|#!lua name=a\nx = 1",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function()",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function('x')",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function('x', 1)",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function(function() end, 'x')",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function('x', function() end, 1)",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function('a-b', function() end)",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name='x'}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{callback=function() end}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name={}, callback=function() end}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name='x', callback=1}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name='x', callback=function() end, flags=1}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name='x', callback=function() end, flags={'nosuch'}}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{function_name='x', callback=function() end, nosuch=1}",
    "FUNCTION|LOAD|#!lua name=a\nredis.register_function{[1]=1}",
    "FUNCTION|LOAD|#!lua name=a\nfor i = 1, 2 do redis.register_function('x', function() end) end",
    "FUNCTION|LOAD|NOSUCH|#!lua name=a\nreturn 1",
    "FUNCTION|LOAD|@LIBRARY",
    "FUNCTION|LOAD|@LIBRARY",
    "FUNCTION|LOAD|REPLACE|@LIBRARY",
    "FUNCTION|LOAD|replace|@LIBRARY",
    "FUNCTION|LOAD|#!lua name=other\nredis.register_function('get', function() end)",
    "FUNCTION|LIST|LIBRARYNAME|nosuch",
    "FUNCTION|LIST|LIBRARYNAME",
    "FUNCTION|LIST|NOSUCH",
    "FUNCTION|STATS",
    "FCALL|put|1|k|v",
    "FCALL|get|1|k",
    "FCALL_RO|get|1|k",
    "FCALL_RO|put|1|k|v",
    "FCALL|nosuch|0",
    "FCALL|get|x",
    "FCALL|get|-1",
    "FCALL|get|5|k",
    "FCALL|GET|1|k",
    "FCALL|fail|0",
    "FCALL|bad|0",
    "FCALL|both|2|a|b|c|d",
    "FCALL|count|1|a|b|c",
    "FUNCTION|LOAD|#!lua name=env\nlocal limit = 5\nredis.register_function('limit', function() return limit end)\nredis.register_function('g', function() return KEYS end)\nredis.register_function('w', function() x = 1 end)\nredis.register_function('r', function() return redis.register_function('y', function() end) end)",
    "FCALL|limit|0",
    "FCALL|g|0",
    "FCALL|w|0",
    "FCALL|r|0",
    "FUNCTION|LOAD|#!lua name=ro\nredis.register_function{function_name='wr', callback=function(k) return redis.call('set', k[1], 1) end, flags={'no-writes'}}",
    "FCALL|wr|1|k",
    "FCALL_RO|wr|1|k",
    "FUNCTION|DELETE|nosuch",
    "FUNCTION|DELETE|mylib",
    "FCALL|get|1|k",
    "FUNCTION|KILL",
    "FUNCTION|FLUSH|NOSUCH",
    "FUNCTION|RESTORE|x",
    "FUNCTION|RESTORE|x|NOSUCH",
    "FUNCTION|FLUSH|ASYNC",
    "FUNCTION|LIST",
    "FUNCTION|DUMP",
    "FUNCTION|NOSUCH",
    "FUNCTION|HELP",
    "SCRIPT|HELP",
    "SCRIPT|KILL",
    "SCRIPT|FLUSH|NOSUCH",
    "SCRIPT|LOAD|return 1",
    "SCRIPT|LOAD|x x",
    "SCRIPT|EXISTS|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|nosuch",
    "EVALSHA|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|0",
    "EVALSHA|E0E1F9FABFC9D4800C877A703B823AC0578FF8DB|0",
    "EVALSHA_RO|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|0",
    "EVALSHA|nosuch|0",
    "EVALSHA|ffffffffffffffffffffffffffffffffffffffff|0",
    "EVAL_RO|return redis.call('get', KEYS[1])|1|k",
    "EVAL_RO|return redis.call('set', KEYS[1], 'x')|1|k",
    "EVAL_RO|#!lua\nreturn 1|0",
    "EVAL_RO|#!lua flags=no-writes\nreturn 1|0",
    "EVAL|return 1|x",
    "EVAL|return 1|-1",
    "EVAL|return 1|1",
    "SCRIPT|FLUSH",
    "EVALSHA|e0e1f9fabfc9d4800c877a703b823ac0578ff8db|0",
];

fn arguments(command: &str) -> Vec<&[u8]> {
    let args = command.split('|');
    args.map(|arg| if arg == "@LIBRARY" { LIBRARY.as_bytes() } else { arg.as_bytes() }).collect()
}

#[test]
fn functions_answer_as_a_stock_server_does() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut failures = Vec::new();
    for resp3 in [false, true] {
        let mut ours = Logged::new();
        ours.resp3 = resp3;
        redis.run("FUNCTION FLUSH");
        redis.run("SCRIPT FLUSH");
        redis.run("FLUSHALL");
        redis.run(if resp3 { "HELLO 3" } else { "HELLO 2" });
        for command in COMMANDS {
            let args = arguments(command);
            let (expected, found) = (redis.call(&args), ours.call(&args));
            if expected != found {
                let (expected, found) = (shown(&expected), shown(&found));
                failures.push(format!("{command}\n  redis: {expected}\n  ours:  {found}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn payloads_go_both_ways() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut ours = Logged::new();
    assert!(!ours.call(&[b"FUNCTION", b"LOAD", LIBRARY.as_bytes()]).is_error());
    let payload = ours.run("FUNCTION DUMP");
    let payload = payload.as_bytes().unwrap();
    assert!(!redis.call(&[b"FUNCTION", b"RESTORE", payload]).is_error());
    assert!(!redis.run("FCALL put 1 k v").is_error());
    assert!(redis.call(&[b"FUNCTION", b"RESTORE", payload]).is_error());
    let theirs = redis.run("FUNCTION DUMP");
    let theirs = theirs.as_bytes().unwrap();
    assert!(!ours.call(&[b"FUNCTION", b"RESTORE", theirs, b"FLUSH"]).is_error());
    assert_eq!(ours.run("FCALL count 1 a b c"), redis.run("FCALL count 1 a b c"));
    for (policy, works) in [(&b"APPEND"[..], false), (b"REPLACE", true), (b"FLUSH", true)] {
        let reply = ours.call(&[b"FUNCTION", b"RESTORE", theirs, policy]);
        assert_eq!(!reply.is_error(), works, "{reply:?}");
        assert_eq!(reply, redis.call(&[b"FUNCTION", b"RESTORE", theirs, policy]));
    }
}

//! Scripts of users who may not do everything, beside a stock server.

use super::common::Target;
use super::{Logged, shown, stock};
use holdfast_proto::acl::User;
use holdfast_proto::resp::reply::Value;

const RULES: &[&str] =
    &["on", "nopass", "+@all", "-config", "-incr", "~k*", "%R~r*", "&ch*", "(~s* +lpush)"];

const LIBRARY: &str = "#!lua name=lib
redis.register_function('put', function() return redis.call('SET', 'x', 1) end)
redis.register_function('may', function(_, args) return redis.acl_check_cmd(unpack(args)) end)";

const SCRIPTS: &[&str] = &[
    "return redis.call('SET', 'k', 1)",
    "return redis.call('SET', 'x', 1)",
    "return redis.pcall('SET', 'x', 1)",
    "return {redis.call('GET', 'r'), redis.call('MGET', 'k', 'r')}",
    "return redis.call('MGET', 'k', 'x')",
    "return redis.call('SET', 'r', 1)",
    "return redis.call('COPY', 'r', 'k2')",
    "return redis.call('COPY', 'k', 'r2')",
    "return redis.call('INCR', 'k')",
    "return redis.call('LPUSH', 's', 1)",
    "return redis.call('RPUSH', 's', 1)",
    "return redis.call('PUBLISH', 'ch', 1)",
    "return redis.call('PUBLISH', 'other', 1)",
    "return redis.call('SORT', 's', 'BY', 'w*')",
    "return redis.call('SORT', 'kl', 'BY', 'w*')",
    "return redis.call('SORT', 'kl', 'GET', 'w*')",
    "return redis.call('NOSUCH')",
    "return redis.call('SET', 'x')",
    "return redis.call('CONFIG', 'GET', 'x')",
    "redis.pcall('SET', 'x', 1) return redis.call('EXISTS', 'k', 'r')",
    "return redis.acl_check_cmd('SET', 'k', 1)",
    "return redis.acl_check_cmd('SET', 'x', 1)",
    "return redis.acl_check_cmd('SET', 'k')",
    "return redis.acl_check_cmd('SET')",
    "return redis.acl_check_cmd('SET', 1, 1)",
    "return redis.acl_check_cmd('INCR', 'k')",
    "return redis.acl_check_cmd('GET', 'r')",
    "return redis.acl_check_cmd('LPUSH', 's', 1)",
    "return redis.acl_check_cmd('LPUSH', 'r', 1)",
    "return redis.acl_check_cmd('PUBLISH', 'other', 1)",
    "return redis.acl_check_cmd('CONFIG', 'GET', 'x')",
    "return redis.acl_check_cmd('CONFIG')",
    "return redis.acl_check_cmd('CONFIG', 'NOSUCH')",
    "return redis.acl_check_cmd('NOSUCH')",
];

/// What is refused. The texts are those of 7.2, which names more.
fn judged(reply: &Value) -> String {
    let text = shown(reply);
    let kinds = [
        ("run this command or subcommand", "permissions to run", "command"),
        ("at least one of the keys", "permissions to access a key", "key"),
        ("publish to the channel", "permissions to access a channel", "channel"),
    ];
    for (theirs, ours, kind) in kinds {
        if text.starts_with("-ERR") && (text.contains(theirs) || text.contains(ours)) {
            let place = text.rfind(" script: ").filter(|at| text[*at..].contains("@user_"));
            let place = place.map_or("", |at| &text[at..]);
            return format!("{kind}{place}");
        }
    }
    text
}

#[test]
fn a_scripts_commands_need_its_users_rights_as_with_a_stock_server() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut ours = Logged::new();
    let mut failures = Vec::new();
    let mut compare = |redis: &mut dyn Target, ours: &mut dyn Target, command: &[&str]| {
        let args: Vec<&[u8]> = command.iter().map(|arg| arg.as_bytes()).collect();
        let (expected, found) = (judged(&redis.call(&args)), judged(&ours.call(&args)));
        if expected != found {
            failures.push(format!("{command:?}\n  redis: {expected}\n  ours:  {found}"));
        }
    };
    compare(&mut redis, &mut ours, &["FUNCTION", "LOAD", LIBRARY]);
    redis.run(&format!("ACL SETUSER joe {}", RULES.join(" ")));
    redis.run("AUTH joe x");
    let permissions = User::parse(&RULES.join(" ")).unwrap().permissions();
    ours.user = Some(("joe".to_owned(), permissions));
    for script in SCRIPTS {
        compare(&mut redis, &mut ours, &["EVAL", script, "0"]);
    }
    compare(&mut redis, &mut ours, &["FCALL", "put", "0"]);
    compare(&mut redis, &mut ours, &["FCALL", "may", "0", "SET", "k", "1"]);
    compare(&mut redis, &mut ours, &["FCALL", "may", "0", "SET", "x", "1"]);
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
    let text = ours.text("return redis.pcall('INCR', 'k')");
    assert_eq!(
        text,
        "ERR ACL failure in script: User joe has no permissions to run the 'incr' command"
    );
    // The next command is somebody else's.
    ours.user = None;
    assert_eq!(ours.eval("return redis.call('INCR', 'x')"), Value::Integer(1));
    ours.user = Some(("joe".to_owned(), "rules of the future".to_owned()));
    assert!(ours.text("return redis.call('PING')").contains("no permissions to run the 'ping'"));
}

//! Hand-written scripts, each run on both with two keys and two arguments, in RESP2 and RESP3.

use super::common::Target;
use super::{Logged, on_large_stack, shown, stock};

const SCRIPTS: &str = include_str!("scripts.txt");

/// Scripts are separated by lines of dashes; lines that begin with `##` are comments.
pub(crate) fn scripts() -> Vec<String> {
    SCRIPTS
        .split("\n----\n")
        .map(|script| {
            let lines: Vec<_> = script.lines().filter(|line| !line.starts_with("##")).collect();
            lines.join("\n")
        })
        .filter(|script| !script.trim().is_empty())
        .collect()
}

#[test]
fn every_script_answers_as_a_stock_server_does() {
    on_large_stack(compare_all);
}

fn compare_all() {
    let Some((_folder, mut redis)) = stock() else { return };
    let mut failures = Vec::new();
    let scripts = scripts();
    for resp3 in [false, true] {
        let mut ours = Logged::new();
        ours.resp3 = resp3;
        redis.run(if resp3 { "HELLO 3" } else { "HELLO 2" });
        for script in &scripts {
            redis.run("FLUSHALL");
            // A new interpreter: settings of cjson outlast a script there.
            redis.run("SCRIPT FLUSH");
            ours.run("FLUSHALL");
            for target in [&mut redis as &mut dyn Target, &mut ours] {
                target.call(&[b"SET", b"k1", b"10"]);
                target.call(&[b"RPUSH", b"k2", b"a", b"b", b"c"]);
            }
            let call: [&[u8]; 7] =
                [b"EVAL", script.as_bytes(), b"2", b"k1", b"k2", b"arg1", b"2.5"];
            let expected = redis.call(&call);
            let found = ours.call(&call);
            if expected != found {
                failures.push(format!(
                    "resp{}: {script}\n  redis: {}\n  ours:  {}",
                    if resp3 { 3 } else { 2 },
                    shown(&expected),
                    shown(&found)
                ));
            }
        }
    }
    let count = failures.len();
    assert!(failures.is_empty(), "{count} differ\n{}", failures.join("\n"));
    assert!(scripts.len() > 250, "the corpus is read as a whole: {}", scripts.len());
}

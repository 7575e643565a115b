//! Consumer groups of streams from which nothing was deleted count as in a stock server. (Where
//! something was, Redis counts otherwise since 7.2.7: see `docs/differences.md`.)

mod common;

use common::{Local, Redis, Target};

#[test]
fn groups_progress_as_in_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut theirs) = Redis::start(folder.path(), &[]) else { return };
    let mut ours = Local::new();
    let mut state = 5u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % bound
    };
    let mut last = 0;
    for _ in 0..3000 {
        if random(100) == 0 {
            last = 0;
            assert_eq!(ours.run("DEL s"), theirs.run("DEL s"));
        }
        let (id, group) = (random(last + 3), random(3));
        let command = match random(6) {
            0 | 1 => {
                last += 1;
                format!("XADD s {last}-0 f v")
            }
            2 => format!("XGROUP CREATE s g{group} {id} MKSTREAM"),
            3 => format!("XGROUP CREATE s g{group} $ MKSTREAM"),
            4 if random(4) == 0 => format!("XGROUP SETID s g{group} {id}"),
            _ => format!("XREADGROUP GROUP g{group} c COUNT {} STREAMS s >", 1 + random(3)),
        };
        // A stock server makes a consumer only when it gets something.
        let consumer = format!("XGROUP CREATECONSUMER s g{group} c");
        for command in [&consumer, &command, "XINFO GROUPS s"] {
            assert_eq!(ours.run(command), theirs.run(command), "{command}");
        }
    }
}

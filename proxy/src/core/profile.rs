//! Commands that an operator withholds from clients.

use holdfast_proto::command;

/// What a managed instance refuses (`command-profile managed`).
const MANAGED: &[&str] = &[
    "acl",
    "bgrewriteaof",
    "bgsave",
    "cluster",
    "command",
    "config",
    "debug",
    "failover",
    "lastsave",
    "migrate",
    "monitor",
    "replicaof",
    "role",
    "save",
    "shutdown",
    "slaveof",
];
/// `scripting no`.
const SCRIPTING: &[&str] =
    &["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "function", "script"];

/// By index in the command table; empty when nothing is refused.
pub(super) fn refused(managed: bool, scripting: bool) -> Vec<bool> {
    if !managed && scripting {
        return Vec::new();
    }
    command::all()
        .map(|spec| {
            (managed && MANAGED.contains(&spec.name))
                || (!scripting && SCRIPTING.contains(&spec.name))
        })
        .collect()
}

/// The error for a command that is refused.
pub(super) fn text(name: &str) -> String {
    format!(
        "NOPERM the command '{name}' is not available on this cluster: its operator withholds it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_name_commands_that_exist() {
        for name in MANAGED.iter().chain(SCRIPTING) {
            assert!(command::lookup(name.as_bytes()).is_some(), "{name}");
        }
        assert!(refused(false, true).is_empty());
        let count = |refused: Vec<bool>| refused.into_iter().filter(|refused| *refused).count();
        assert_eq!(count(refused(true, true)), MANAGED.len());
        assert_eq!(count(refused(true, false)), MANAGED.len() + SCRIPTING.len());
    }
}

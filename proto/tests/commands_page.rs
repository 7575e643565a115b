//! Makes `docs/commands.md` of the table of commands, and fails while the page is stale.
//! `HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-proto --test commands_page` writes it.

use holdfast_proto::command::{self, CommandSpec, Support, notes};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What the page says about one command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Supported,
    Differs(&'static str),
    NotYet,
    Refused(&'static str),
}

impl Status {
    fn of(spec: &CommandSpec) -> Self {
        match spec.support {
            Support::Supported => {
                notes::note(notes::DIFFERENCES, spec.name).map_or(Self::Supported, Self::Differs)
            }
            Support::NotYet => Self::NotYet,
            Support::Refused => {
                let reason = notes::note(notes::REFUSALS, spec.name);
                Self::Refused(reason.unwrap_or_else(|| panic!("no reason for {}", spec.name)))
            }
        }
    }

    fn cells(self) -> (&'static str, &'static str) {
        match self {
            Self::Supported => ("yes", ""),
            Self::Differs(how) => ("with a difference", how),
            Self::NotYet => ("not yet", ""),
            Self::Refused(why) => ("refused", why),
        }
    }
}

/// Commands and subcommands; a container stands for itself only if it can be called alone.
fn commands() -> Vec<&'static CommandSpec> {
    let mut all = Vec::new();
    for spec in command::all() {
        let callable_alone = spec.subcommands.is_empty() || spec.arity == -1;
        all.extend(callable_alone.then_some(spec));
        all.extend(spec.subcommands);
    }
    all
}

fn page() -> String {
    let mut groups: BTreeMap<&str, Vec<&CommandSpec>> = BTreeMap::new();
    for spec in commands() {
        groups.entry(spec.group.name()).or_default().push(spec);
    }
    let mut text = String::from(
        "# Commands\n\n\
         Every command and subcommand of Redis OSS 7.2, and what becomes of it here. Generated from\n\
         the table of commands (`proto/src/command`): `HOLDFAST_WRITE_DOCS=1 cargo test -p\n\
         holdfast-proto --test commands_page`. Reasons for the differences are in\n\
         [differences.md](differences.md).\n\n",
    );
    text.push_str("| group | commands | supported | with a difference | refused | not yet |\n");
    text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
    let mut sum = [0; 5];
    for (group, commands) in &groups {
        let mut row = [commands.len(), 0, 0, 0, 0];
        for spec in commands {
            row[match Status::of(spec) {
                Status::Supported => 1,
                Status::Differs(_) => 2,
                Status::Refused(_) => 3,
                Status::NotYet => 4,
            }] += 1;
        }
        sum.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        let _ = writeln!(text, "| {group} | {} |", row.map(|n| n.to_string()).join(" | "));
    }
    let _ = writeln!(text, "| **all** | {} |", sum.map(|n| n.to_string()).join(" | "));
    for (group, commands) in &groups {
        let _ = writeln!(text, "\n## {group}\n\n| command | supported | |\n| --- | --- | --- |");
        for spec in commands {
            let name = spec.name.to_ascii_uppercase().replace('|', " ");
            let (status, note) = Status::of(spec).cells();
            let _ = writeln!(text, "| {name} | {status} | {note} |");
        }
    }
    text
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    let page = page();
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/commands.md is stale: HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-proto --test \
         commands_page"
    );
}

#[test]
fn notes_name_commands_of_their_kind() {
    for (list, support) in
        [(notes::DIFFERENCES, Support::Supported), (notes::REFUSALS, Support::Refused)]
    {
        assert!(list.is_sorted_by_key(|(name, _)| *name));
        for (name, _) in list {
            let (parent, sub) = name.split_once('|').unwrap_or((name, ""));
            let parent = command::lookup(parent.as_bytes());
            let spec = match sub {
                "" => parent,
                sub => parent.and_then(|parent| command::lookup_sub(parent, sub.as_bytes())),
            };
            let spec = spec.unwrap_or_else(|| panic!("{name} is no command"));
            // What is not built yet may have its note already.
            let fits = spec.support == support || spec.support == Support::NotYet;
            assert!(fits, "{name} is noted as something else");
        }
    }
}

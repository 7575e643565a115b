//! The texts are what a Redis 7.0.15 answered, but for the order of command rules, which 7.2 keeps.

use super::*;

fn user(rules: &str) -> User {
    User::parse(rules).unwrap()
}

fn try_rule(rule: &str) -> Result<String, String> {
    let mut user = User::default();
    let words: Vec<&str> = rule.split(' ').collect();
    for word in merge_selectors(&words).map_err(str::to_owned)? {
        user.apply(&word).map_err(|error| error.to_string())?;
    }
    Ok(user.describe())
}

fn check(user: &User, command: &str) -> Result<(), Denied> {
    let args: Vec<&str> = command.split(' ').collect();
    let name = args[0].as_bytes();
    let spec = crate::command::resolve(name, args.get(1).map(|arg| arg.as_bytes())).unwrap();
    assert!(spec.arity_fits(args.len()), "{command}");
    user.check(spec, &args)
}

#[test]
fn rules_are_shown_in_their_canonical_form() {
    let none = "off sanitize-payload";
    let cases = [
        ("on", "on sanitize-payload resetchannels -@all"),
        ("nopass", "off nopass sanitize-payload resetchannels -@all"),
        ("+get|foo", &format!("{none} resetchannels -@all +get|foo")),
        ("~", &format!("{none} ~ resetchannels -@all")),
        ("()", &format!("{none} resetchannels -@all (resetchannels -@all)")),
        ("(allkeys)", &format!("{none} resetchannels -@all (~* resetchannels -@all)")),
        ("%R~a ~a", &format!("{none} ~a resetchannels -@all")),
        ("%W~a %rw~b", &format!("{none} %W~a ~b resetchannels -@all")),
        ("& &x &x", &format!("{none} resetchannels & &x -@all")),
        ("+@all -@all +get", &format!("{none} resetchannels -@all +get")),
        ("-client|id +client", &format!("{none} resetchannels -@all +client")),
        ("+get +GET -@read +set", &format!("{none} resetchannels -@all +get -@read +set")),
        ("+@all -get allchannels", &format!("{none} &* +@all -get")),
        (
            "nopass >a",
            &format!(
                "{none} \
                 #ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb resetchannels \
                 -@all"
            ),
        ),
    ];
    for (rule, shown) in cases {
        let text = try_rule(rule);
        assert_eq!(text.as_deref(), Ok(shown), "{rule}");
        assert_eq!(user(shown).describe(), shown, "what is stored is read back");
    }
}

#[test]
fn bad_rules_get_the_errors_of_redis() {
    let cases = [
        ("foo", "Syntax error"),
        ("%X~a", "Syntax error"),
        ("%~a", "Syntax error"),
        (")", "Syntax error"),
        ("(on)", "Syntax error"),
        ("+", "Unknown command or category name in ACL"),
        ("+nosuch", "Unknown command or category name in ACL"),
        ("-@nosuch", "Unknown command or category name in ACL"),
        ("-config|nosuch", "Unknown command or category name in ACL"),
        ("-get|foo", "Unknown command or category name in ACL"),
        ("+config|get|foo", "Allowing first-arg of a subcommand is not supported"),
        ("<nopw", "The password you are trying to remove from the user does not exist"),
    ];
    for (rule, text) in cases {
        assert_eq!(try_rule(rule), Err(text.to_owned()), "{rule}");
    }
    assert!(try_rule("#abc").unwrap_err().starts_with("The password hash must be exactly 64"));
    assert!(try_rule("allkeys ~x").unwrap_err().contains("'allkeys' flag"));
    assert!(try_rule("allchannels &x").unwrap_err().contains("'allchannels' flag"));
    assert_eq!(try_rule("on (+get ~x"), Err("(+get".to_owned()));
}

#[test]
fn commands_keys_and_channels_are_checked() {
    let user = user(
        "on ~a* %R~r* &ch* +@read +set +subscribe +psubscribe +publish +copy +config|get +select|1",
    );
    let key = |at| Err(Denied::Key(at));
    let cases = [
        ("get a1", Ok(())),
        ("get r", Ok(())),
        ("set r 1", key(1)),
        ("set a 1", Ok(())),
        ("set r 1 get", key(1)),
        ("set z 1", key(1)),
        ("del a", Err(Denied::Command)),
        ("mget a1 z", key(2)),
        ("subscribe chx", Ok(())),
        ("subscribe chx foo", Err(Denied::Channel(2))),
        ("psubscribe ch*", Ok(())),
        ("psubscribe chx*", Err(Denied::Channel(1))),
        ("publish foo x", Err(Denied::Channel(1))),
        ("copy a r", key(2)),
        ("copy r a", Ok(())),
        ("config get x", Ok(())),
        ("config set x y", Err(Denied::Command)),
        ("exists z", key(1)),
        ("touch a z", key(2)),
        ("object encoding z", key(2)),
        ("select 1", Ok(())),
        ("select 2", Err(Denied::Command)),
        ("auth x", Ok(())),
    ];
    for (command, expected) in cases {
        assert_eq!(check(&user, command), expected, "{command}");
    }
}

#[test]
fn one_selector_must_allow_all_of_a_command() {
    let user = user("on ~a* +get (%R~b* +get) (~c* +set)");
    assert_eq!(check(&user, "get b"), Ok(()));
    assert_eq!(check(&user, "set c 1"), Ok(()));
    assert_eq!(check(&user, "set a 1"), Err(Denied::Key(1)));
    assert_eq!(check(&user, "get c"), Err(Denied::Key(1)));
    assert_eq!(check(&user, "del c"), Err(Denied::Command));
}

#[test]
fn passwords_are_kept_as_hashes() {
    let mut user = User::with_password("one");
    user.apply(">two").unwrap();
    assert!(user.accepts(b"one") && user.accepts(b"two") && !user.accepts(b"three"));
    assert!(user.is_unrestricted());
    user.apply("<one").unwrap();
    assert!(!user.accepts(b"one"));
    user.set_password("");
    assert!(user.nopass && user.accepts(b"anything"));
    assert!(!user.describe().contains("two"));
}

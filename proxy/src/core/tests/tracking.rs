//! Client tracking against scripted nodes.

use super::*;
use holdfast_proto::frame::flags::TRACK;

impl World {
    /// A node tells that keys changed through the request with this tag.
    fn invalidate(&mut self, link: usize, cause: u64, keys: &[&str]) {
        let mut body = BytesMut::new();
        body.put_u64_le(cause);
        for key in keys {
            body.put_u32_le(key.len() as u32);
            body.put_slice(key.as_bytes());
        }
        self.push(link, Response::Invalidate { keys: body.freeze() });
    }

    fn tracking_client(&mut self, options: &str) -> ClientKey {
        let client = self.client();
        self.send(client, &format!("HELLO 3\nCLIENT TRACKING ON{options}"));
        assert!(self.told(client).ends_with("+OK\r\n"));
        client
    }

    /// The client reads a key; the flags of the frame.
    fn reads(&mut self, client: ClientKey, key: &str) -> u8 {
        self.send(client, &format!("GET {key}"));
        let received = self.received_one(0);
        let Received::Read(read) = &received else { panic!("not a read") };
        let flags = read.flags;
        self.reply(0, &received, "+v\r\n");
        assert!(self.told(client).starts_with("+v\r\n"));
        flags
    }
}

fn line(text: &str) -> String {
    text.replace("\r\n", " ")
}

#[test]
fn a_key_that_was_read_is_invalidated_once() {
    let mut world = World::new(1);
    let client = world.tracking_client("");
    let other = world.client();
    assert_eq!(world.reads(client, "k") & TRACK, TRACK);
    assert_eq!(world.reads(other, "k") & TRACK, 0);
    world.invalidate(0, 0, &["k", "never-read"]);
    assert_eq!(line(&world.told(client)), ">2 $10 invalidate *1 $1 k ");
    assert_eq!(world.told(other), "");
    world.invalidate(0, 0, &["k"]);
    assert_eq!(world.told(client), "");
    world.reads(client, "k");
    world.invalidate(0, 0, &[]);
    assert_eq!(line(&world.told(client)), ">2 $10 invalidate _ ");
}

#[test]
fn an_invalidation_before_the_answer_is_about_earlier_reads() {
    let mut world = World::new(1);
    let client = world.tracking_client("");
    world.send(client, "GET k");
    let read = world.received_one(0);
    world.invalidate(0, 0, &["k"]);
    world.reply(0, &read, "+v\r\n");
    assert_eq!(world.told(client), "+v\r\n");
    world.invalidate(0, 0, &["k"]);
    assert_eq!(line(&world.told(client)), ">2 $10 invalidate *1 $1 k ");
}

#[test]
fn everything_is_forgotten_when_a_primary_may_have_been_missed() {
    let mut world = World::new(1);
    let client = world.tracking_client("");
    let flush = ">2 $10 invalidate _ ";
    world.reads(client, "k");
    world.primary_is(1, 1, 2);
    assert_eq!(line(&world.told(client)), flush, "a new primary");
    world.disconnect(1);
    assert_eq!(line(&world.told(client)), flush, "the primary's link broke");
    let mut world = World::new(1);
    let client = world.tracking_client("");
    world.reads(client, "k");
    world.pass(1_500, &[1, 2]);
    assert_eq!(line(&world.told(client)), flush, "the primary is silent");
}

#[test]
fn a_late_answer_of_an_old_primary_is_not_to_be_kept() {
    let mut world = World::new(1);
    let client = world.tracking_client("");
    world.disconnect(1);
    world.send(client, "GET k");
    let read = world.received_one(0);
    // The metadata names a new primary; the link to it is not there yet.
    let mut newer = topology(1, "");
    newer.version = 2;
    (newer.shards[0].primary_node, newer.shards[0].term) = (2, 2);
    let now = world.now();
    world.core.topology(Arc::new(newer), now);
    world.told(client);
    world.reply(0, &read, "+old\r\n");
    assert_eq!(line(&world.told(client)), "+old >2 $10 invalidate *1 $1 k ");
}

#[test]
fn modes_choose_what_is_remembered() {
    let mut world = World::new(1);
    let opt_in = world.tracking_client(" OPTIN");
    assert_eq!(world.reads(opt_in, "a") & TRACK, 0);
    world.send(opt_in, "CLIENT CACHING YES");
    assert_eq!(world.told(opt_in), "+OK\r\n");
    assert_eq!(world.reads(opt_in, "a") & TRACK, TRACK);
    assert_eq!(world.reads(opt_in, "a") & TRACK, 0);
    let opt_out = world.tracking_client(" OPTOUT");
    world.send(opt_out, "CLIENT CACHING NO");
    world.told(opt_out);
    assert_eq!(world.reads(opt_out, "a") & TRACK, 0);
    assert_eq!(world.reads(opt_out, "a") & TRACK, TRACK);
    let broadcast = world.tracking_client(" BCAST PREFIX user: PREFIX item:");
    assert_eq!(world.reads(broadcast, "a") & TRACK, 0);
    assert_eq!(world.registered[0].2, "prefix user: 1, prefix item: 1");
    world.invalidate(0, 0, &["user:1", "x", "item:2"]);
    assert_eq!(line(&world.told(broadcast)), ">2 $10 invalidate *2 $6 user:1 $6 item:2 ");
    world.send(broadcast, "CLIENT TRACKING OFF");
    world.told(broadcast);
    world.invalidate(0, 0, &["user:1"]);
    assert_eq!(world.told(broadcast), "");
}

#[test]
fn a_client_need_not_hear_of_its_own_writes() {
    let mut world = World::new(1);
    let quiet = world.tracking_client(" NOLOOP");
    let loud = world.tracking_client("");
    world.reads(quiet, "k");
    world.reads(loud, "k");
    world.send(quiet, "SET k 1");
    let set = world.received_one(0);
    world.invalidate(0, set.tag(), &["k"]);
    world.reply(0, &set, "+OK\r\n");
    assert_eq!(world.told(quiet), "+OK\r\n");
    assert_eq!(line(&world.told(loud)), ">2 $10 invalidate *1 $1 k ");
}

#[test]
fn resp2_clients_are_told_through_another_connection() {
    let mut world = World::new(1);
    let listener = world.client();
    world.send(listener, "CLIENT ID\nSUBSCRIBE __redis__:invalidate");
    let id = world.told(listener)[1..].trim().parse::<u64>().unwrap();
    world.pass(1_100, &[0, 1, 2]);
    world.told(listener);
    let client = world.client();
    world.send(client, &format!("CLIENT TRACKING ON REDIRECT {id}\nCLIENT GETREDIR"));
    assert_eq!(world.told(client), format!("+OK\r\n:{id}\r\n"));
    world.received(0);
    world.reads(client, "k");
    world.invalidate(0, 0, &["k"]);
    assert_eq!(world.told(client), "");
    assert_eq!(line(&world.told(listener)), "*3 $7 message $20 __redis__:invalidate *1 $1 k ");
    let now = world.now();
    world.core.client_gone(listener, now);
    world.received(0);
    world.reads(client, "k");
    world.invalidate(0, 0, &["k"]);
    world.send(client, "CLIENT TRACKINGINFO");
    assert!(world.told(client).contains("broken_redirect"));
}

/// Carries what one worker has to say to the other; how much that was.
fn carry(from: &mut World, to: &mut World) -> usize {
    let mut carried = 0;
    for action in from.take_actions() {
        if let Action::Redirect(message) = action {
            let now = to.now();
            to.core.redirected(message, now);
            carried += 1;
        }
    }
    carried
}

#[test]
fn the_connection_that_is_told_may_be_another_workers() {
    let mut workers: Vec<World> =
        (0..2).map(|index| World::of_worker(topology(1, ""), index, 2)).collect();
    let [here, there] = &mut workers[..] else { panic!("two workers") };
    let listener = there.client();
    there.send(listener, "CLIENT ID\nSUBSCRIBE __redis__:invalidate");
    let id = there.told(listener)[1..].trim().parse::<u64>().unwrap();
    there.pass(1_100, &[0, 1, 2]);
    there.told(listener);
    let client = here.client();
    here.take_actions();
    there.take_actions();
    // What comes behind waits until the other worker has said that the client is there.
    here.send(client, &format!("CLIENT TRACKING ON REDIRECT {id}\nGET k"));
    assert_eq!((here.told(client), here.received(0).len()), (String::new(), 0));
    assert_eq!(carry(here, there), 1);
    assert_eq!(carry(there, here), 1);
    assert_eq!(here.told(client), "+OK\r\n");
    let get = here.received_one(0);
    assert!(matches!(&get, Received::Read(read) if read.flags & TRACK != 0), "{get:?}");
    here.reply(0, &get, "$1\r\nx\r\n");
    here.told(client);
    here.invalidate(0, 0, &["k"]);
    assert_eq!(carry(here, there), 1);
    assert_eq!(here.told(client), "");
    assert_eq!(line(&there.told(listener)), "*3 $7 message $20 __redis__:invalidate *1 $1 k ");
    // A primary is gone: everything is to be forgotten.
    here.disconnect(0);
    assert_eq!(carry(here, there), 1);
    assert_eq!(line(&there.told(listener)), "*3 $7 message $20 __redis__:invalidate *-1 ");
    // The other client leaves: the first one hears of it when there is something to tell.
    let now = there.now();
    there.core.client_gone(listener, now);
    here.invalidate(1, 0, &[]);
    assert_eq!(carry(here, there), 1);
    assert_eq!(carry(there, here), 1);
    here.send(client, "CLIENT TRACKINGINFO");
    assert!(here.told(client).contains("broken_redirect"));
    // And nobody can name it any more.
    here.send(client, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    assert_eq!(carry(here, there), 1);
    assert_eq!(carry(there, here), 1);
    let told = here.told(client);
    assert!(told.starts_with("-ERR The client ID you want redirect to does not exist"), "{told}");
}

#[test]
fn what_a_transaction_or_a_split_command_read_is_not_to_be_kept() {
    let mut world = World::new(2);
    let client = world.tracking_client("");
    let (a, b) = (key_of_shard(1, 2), key_of_shard(2, 2));
    world.send(client, &format!("MULTI\nGET {a}\nSET {a} 1\nEXEC"));
    let exec = world.received_one(0);
    world.told(client);
    world.reply(0, &exec, "*2\r\n+v\r\n+OK\r\n");
    let invalidated = format!(">2 $10 invalidate *1 ${} {a} ", a.len());
    assert_eq!(line(&world.told(client)), format!("*2 +v +OK {invalidated}"));
    world.send(client, &format!("MGET {a} {b}"));
    let parts = [world.received_one(0), world.received_one(1)];
    world.reply(0, &parts[0], "*1\r\n$1\r\nx\r\n");
    world.reply(1, &parts[1], "*1\r\n$1\r\ny\r\n");
    assert_eq!(
        line(&world.told(client)),
        format!("*2 $1 x $1 y >2 $10 invalidate *2 ${} {a} ${} {b} ", a.len(), b.len())
    );
}

#[test]
fn errors_are_those_of_redis() {
    let mut world = World::new(1);
    let client = world.client();
    for (command, error) in [
        ("CLIENT TRACKING FOO", "ERR syntax error"),
        (
            "CLIENT TRACKING ON REDIRECT 99999",
            "ERR The client ID you want redirect to does not exist",
        ),
        ("CLIENT TRACKING ON PREFIX a", "ERR PREFIX option requires BCAST mode to be enabled"),
        (
            "CLIENT TRACKING ON OPTIN OPTOUT",
            "ERR You can't specify both OPTIN mode and OPTOUT mode",
        ),
        ("CLIENT TRACKING ON BCAST OPTIN", "ERR OPTIN and OPTOUT are not compatible with BCAST"),
        (
            "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab",
            "ERR Prefix 'a' overlaps with another provided prefix 'ab'. Prefixes for a single client must not overlap.",
        ),
        (
            "CLIENT CACHING YES",
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ),
    ] {
        world.send(client, command);
        assert_eq!(world.told(client), format!("-{error}\r\n"), "{command}");
    }
    world
        .send(client, "CLIENT TRACKING ON BCAST PREFIX a\nCLIENT TRACKING ON\nCLIENT TRACKINGINFO");
    assert_eq!(
        line(&world.told(client)),
        "+OK -ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode. \
         *6 $5 flags *2 $2 on $5 bcast $8 redirect :0 $8 prefixes *1 $1 a "
    );
}

"""Two proxies are one server: what a client says to one holds at the other."""

import threading
import time
import unittest

import redis

import cluster

# Users and settings reach a proxy with the sentinels' metadata, within this time.
SOON_SECONDS = 10


def soon(check):
    """Waits until `check` passes; its last failure if it does not."""
    deadline = time.monotonic() + SOON_SECONDS
    while True:
        try:
            return check()
        except (AssertionError, redis.RedisError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Users(unittest.TestCase):
    def setUp(self):
        self.here = cluster.client(0, decode_responses=True)
        self.there = cluster.client(1, decode_responses=True)

    def tearDown(self):
        self.here.acl_deluser("joe")
        self.here.close()
        self.there.close()

    def as_joe(self, proxy):
        uri = cluster.uris[proxy].replace(f"default:{cluster.password}", "joe:secret")
        return redis.Redis.from_url(uri, **cluster.tls(), decode_responses=True)

    def test_a_user_made_at_one_proxy_is_known_at_the_other(self):
        self.here.execute_command(
            "ACL", "SETUSER", "joe", "on", ">secret", "~joe:*", "-@all", "+@read", "+eval", "+set")
        # At once at the proxy that took the command.
        self.as_joe(0).get("joe:x")
        soon(lambda: self.as_joe(1).get("joe:x"))
        self.assertEqual(self.here.acl_getuser("joe"), self.there.acl_getuser("joe"))
        joe = self.as_joe(1)
        with self.assertRaises(redis.exceptions.NoPermissionError):
            joe.get("other")
        with self.assertRaises(redis.exceptions.NoPermissionError):
            joe.delete("joe:x")
        # And inside scripts, which the nodes run.
        self.assertEqual(joe.eval("return redis.call('SET', KEYS[1], 1)", 1, "joe:x"), "OK")
        with self.assertRaisesRegex(redis.ResponseError, "ACL failure in script"):
            joe.eval("return redis.call('DEL', KEYS[1])", 1, "joe:x")
        self.assertEqual(
            joe.eval("return {redis.acl_check_cmd('GET', 'joe:x') and 1 or 0,"
                     " redis.acl_check_cmd('GET', 'x') and 1 or 0}", 1, "joe:x"), [1, 0])
        self.assertEqual(self.here.get("joe:x"), "1")

    def test_changed_rules_and_deletion_reach_open_connections_of_the_other(self):
        self.here.execute_command("ACL", "SETUSER", "joe", "on", ">secret", "~*", "+@all")
        soon(lambda: self.as_joe(1).ping())
        joe = self.as_joe(1)
        self.assertTrue(joe.set("joe:y", 1))
        self.here.execute_command("ACL", "SETUSER", "joe", "-set")

        def refused():
            with self.assertRaises(redis.exceptions.NoPermissionError):
                joe.set("joe:y", 2)

        soon(refused)
        self.assertEqual(joe.get("joe:y"), "1")
        self.here.acl_deluser("joe")

        def gone():
            with self.assertRaises(redis.AuthenticationError):
                self.as_joe(1).ping()

        soon(gone)
        self.assertIsNone(self.there.acl_getuser("joe"))


class Settings(unittest.TestCase):
    def test_a_setting_changed_at_one_proxy_is_read_at_the_other(self):
        here, there = (cluster.client(n, decode_responses=True) for n in range(2))
        name = "slowlog-max-len"
        before = here.config_get(name)[name]
        try:
            for proxy, value in ((here, "77"), (there, "99")):
                proxy.config_set(name, value)
                self.assertEqual(proxy.config_get(name)[name], value)
                for other in (here, there):
                    soon(lambda: self.assertEqual(other.config_get(name)[name], value))
            with self.assertRaisesRegex(redis.ResponseError, "CONFIG SET failed"):
                there.config_set(name, "many")
        finally:
            here.config_set(name, before)


class Tracking(unittest.TestCase):
    def test_one_connection_is_told_for_many_whatever_worker_they_came_to(self):
        listener = cluster.client(1, protocol=2, decode_responses=True).pubsub()
        # redis-py knows the id only of a connection that is not subscribed yet.
        listener.connection = listener.connection_pool.get_connection()
        listener.connection.send_command("CLIENT", "ID")
        told = int(listener.connection.read_response())
        listener.subscribe("__redis__:invalidate")
        self.assertEqual(listener.get_message(timeout=10)["type"], "subscribe")
        readers = [
            cluster.client(1, protocol=2, single_connection_client=True) for _ in range(12)]
        for number, reader in enumerate(readers):
            reader.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", told)
            reader.get(f"tracked:{number}")
        writer = cluster.client()
        for number in range(len(readers)):
            writer.set(f"tracked:{number}", "changed")
        heard = set()
        while len(heard) < len(readers):
            message = listener.get_message(timeout=10)
            self.assertIsNotNone(message, f"only {sorted(heard)}")
            heard.update(message["data"])
        self.assertEqual(heard, {f"tracked:{number}" for number in range(len(readers))})
        with self.assertRaisesRegex(redis.ResponseError, "does not exist"):
            readers[0].execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", told + 1000)
        for each in readers:
            each.close()
        listener.close()


class Messages(unittest.TestCase):
    """Publishers and subscribers at both proxies, channels on all three shards."""

    CHANNELS = [f"news:{number}" for number in range(12)]

    def subscribe(self, proxy, patterns):
        subscriber = cluster.client(proxy, decode_responses=True).pubsub()
        if patterns:
            subscriber.psubscribe("news:*")
        else:
            subscriber.subscribe(*self.CHANNELS)
        confirmed = 1 if patterns else len(self.CHANNELS)
        while confirmed:
            message = subscriber.get_message(timeout=10)
            self.assertIn(message["type"], ("subscribe", "psubscribe"))
            confirmed -= 1
        return subscriber

    def receive(self, subscriber, count, patience):
        """Texts by channel: `count` of them, or what comes until nothing does for so long."""
        got = {}
        while count is None or sum(map(len, got.values())) < count:
            message = subscriber.get_message(timeout=patience)
            if message is None:
                break
            got.setdefault(message["channel"], []).append(message["data"])
        return got

    def test_every_message_once_and_in_order_at_both_proxies(self):
        subscribers = [self.subscribe(proxy, patterns)
                       for proxy in range(2) for patterns in (False, True)]
        shards = {cluster.client().cluster("keyslot", each) % 16384 // 5462
                  for each in self.CHANNELS}
        self.assertEqual(shards, {0, 1, 2}, "the channels are on all shards")
        publishers = [cluster.client(proxy) for proxy in range(2)]
        for number in range(60):
            for channel in self.CHANNELS:
                receivers = publishers[number % 2].publish(channel, number)
                self.assertEqual(receivers, len(subscribers))
        expected = {channel: [str(n) for n in range(60)] for channel in self.CHANNELS}
        for subscriber in subscribers:
            self.assertEqual(self.receive(subscriber, 60 * len(self.CHANNELS), 10), expected)
            self.assertIsNone(subscriber.get_message(timeout=0.1))
            subscriber.close()
        for proxy in range(2):
            self.assertEqual(cluster.client(proxy).pubsub_numsub(*self.CHANNELS)[0][1], 0)

    def test_subscriptions_outlive_a_primary(self):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        subscribers = [self.subscribe(proxy, patterns)
                       for proxy in range(2) for patterns in (False, True)]
        connections = [each.connection for each in subscribers]
        end = threading.Event()
        errors, sent = [], {}

        def publish(proxy):
            # No retry by the client: an answer to each PUBLISH, from whatever primary there is.
            client = cluster.client(proxy, retry=Retry(NoBackoff(), 0))
            number = 0
            try:
                while not end.is_set():
                    number += 1
                    for channel in self.CHANNELS:
                        client.publish(channel, f"{proxy}:{number}")
            except Exception as error:
                errors.append((proxy, number, repr(error)))
            sent[proxy] = number

        received = [{} for _ in subscribers]

        def listen(at):
            while True:
                message = subscribers[at].get_message(timeout=1)
                if message is None:
                    if end.is_set():
                        return
                    continue
                received[at].setdefault(message["channel"], []).append(message["data"])

        publishing = [threading.Thread(target=publish, args=(proxy,)) for proxy in range(2)]
        listening = [threading.Thread(target=listen, args=(at,)) for at in range(4)]
        for each in publishing + listening:
            each.start()
        try:
            end.wait(1)
            with cluster.Killing() as killing:
                while killing.kills < cluster.SHARDS and not errors:
                    end.wait(0.1)
            # With all primaries in place again everything arrives.
            end.wait(2)
        finally:
            end.set()
            for each in publishing + listening:
                each.join()
        self.assertEqual(errors, [])
        for at, by_channel in enumerate(received):
            self.assertEqual(set(by_channel), set(self.CHANNELS))
            self.assertIs(subscribers[at].connection, connections[at], "the connection stays")
            for channel, messages in by_channel.items():
                for proxy in range(2):
                    numbers = [int(m.split(":")[1]) for m in messages if m[0] == str(proxy)]
                    # At most once, in the publisher's order, and to its end; a primary that is
                    # killed may take with it what it had answered and not delivered.
                    self.assertEqual(numbers, sorted(set(numbers)), (channel, proxy))
                    self.assertEqual(numbers[-1], sent[proxy], (channel, proxy))
                    self.assertGreater(len(numbers), sent[proxy] * 0.9, (channel, proxy))
        for each in subscribers:
            each.close()


if __name__ == "__main__":
    unittest.main()

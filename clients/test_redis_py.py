"""redis-py: RESP2 and RESP3, hiredis' parser and the Python one, pipelines, transactions, asyncio."""

import asyncio
import threading
import unittest

import redis
import redis.asyncio
import redis.cluster

import cluster


class Commands:
    """The same for each protocol and parser."""

    protocol = None
    parser = None

    def setUp(self):
        more = {"protocol": self.protocol, "decode_responses": True}
        if self.parser:
            connection = {"parser_class": self.parser}
            pool = redis.ConnectionPool.from_url(cluster.uri, **cluster.tls(), **more, **connection)
            self.r = redis.Redis(connection_pool=pool)
        else:
            self.r = cluster.client(**more)
        self.r.flushall()

    def tearDown(self):
        self.r.close()

    def test_types(self):
        r = self.r
        self.assertTrue(r.set("s", "value", ex=100))
        self.assertEqual(r.get("s"), "value")
        self.assertLessEqual(r.ttl("s"), 100)
        self.assertEqual(r.incrbyfloat("f", "1.5"), 1.5)
        self.assertEqual(r.rpush("l", *range(5)), 5)
        self.assertEqual(r.lrange("l", 0, -1), list("01234"))
        self.assertEqual(r.hset("h", mapping={"a": 1, "b": 2}), 2)
        self.assertEqual(r.hgetall("h"), {"a": "1", "b": "2"})
        self.assertEqual(r.sadd("set", "x", "y"), 2)
        self.assertEqual(r.smembers("set"), {"x", "y"})
        self.assertEqual(r.zadd("z", {"one": 1, "two": 2.5}), 2)
        self.assertEqual(
            [tuple(each) for each in r.zrange("z", 0, -1, withscores=True)],
            [("one", 1.0), ("two", 2.5)])
        self.assertIsNone(r.get("missing"))

    def test_errors_have_the_classes_that_applications_catch(self):
        self.r.set("s", "text")
        with self.assertRaisesRegex(redis.ResponseError, "^WRONGTYPE "):
            self.r.lpush("s", 1)
        with self.assertRaisesRegex(redis.ResponseError, "not an integer"):
            self.r.incr("s")
        with self.assertRaisesRegex(redis.ResponseError, "unknown command"):
            self.r.execute_command("NOSUCH")

    def test_many_keys_over_all_shards(self):
        values = {f"key:{number}": str(number) for number in range(1000)}
        self.assertTrue(self.r.mset(values))
        self.assertEqual(self.r.mget(list(values)), list(values.values()))
        self.assertEqual(self.r.dbsize(), 1000)
        self.assertEqual(sorted(self.r.scan_iter(count=50)), sorted(values))
        self.assertEqual(len(self.r.keys("key:1*")), 111)
        self.assertEqual(self.r.exists(*list(values)[:10]), 10)
        self.assertEqual(self.r.delete(*list(values)[:500]), 500)
        self.assertEqual(self.r.dbsize(), 500)

    def test_pipelines(self):
        pipe = self.r.pipeline(transaction=False)
        for number in range(2000):
            pipe.incr(f"counter:{number % 7}")
            pipe.get(f"counter:{number % 7}")
        replies = pipe.execute()
        for number in range(2000):
            expected = number // 7 + 1
            self.assertEqual(replies[2 * number : 2 * number + 2], [expected, str(expected)])

    def test_transactions(self):
        pipe = self.r.pipeline(transaction=True)
        pipe.set("{t}a", 1).incr("{t}a").rpush("{t}l", "x").lrange("{t}l", 0, -1)
        self.assertEqual(pipe.execute(), [True, 2, 1, ["x"]])
        with self.r.pipeline() as pipe:
            pipe.watch("{t}a")
            self.r.set("{t}a", 10)
            pipe.multi()
            pipe.set("{t}a", 11)
            with self.assertRaises(redis.WatchError):
                pipe.execute()
        self.assertEqual(self.r.get("{t}a"), "10")

    def test_blocking(self):
        self.assertIsNone(self.r.blpop("{q}none", timeout=1))
        pushed = threading.Timer(0.1, lambda: cluster.client().rpush("{q}b", "job"))
        pushed.start()
        self.assertEqual(list(self.r.blpop(["{q}a", "{q}b"], timeout=10)), ["{q}b", "job"])
        pushed.join()

    def test_databases_and_introspection(self):
        more = {"protocol": self.protocol, "decode_responses": True}
        other = cluster.client(db=3, **more)
        other.set("only", "three")
        self.assertIsNone(self.r.get("only"))
        self.assertEqual(other.get("only"), "three")
        info = self.r.info()
        self.assertTrue(info["redis_version"].startswith("7.2"))
        self.assertEqual(self.r.client_setname("tester"), True)
        self.assertEqual(self.r.client_getname(), "tester")
        self.assertGreater(len(self.r.command()), 200)
        other.close()


class Resp2(Commands, unittest.TestCase):
    protocol = 2


class Resp3(Commands, unittest.TestCase):
    protocol = 3


class Resp2PythonParser(Commands, unittest.TestCase):
    protocol = 2
    parser = redis._parsers._RESP2Parser


class Resp3PythonParser(Commands, unittest.TestCase):
    protocol = 3
    parser = redis._parsers._RESP3Parser


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_many_tasks_share_a_pool(self):
        client = redis.asyncio.Redis.from_url(cluster.uri, **cluster.tls(), max_connections=20)
        await client.flushall()

        async def count(number):
            for _ in range(50):
                await client.incr(f"counter:{number % 5}")

        pool = redis.asyncio.BlockingConnectionPool.from_url(
            cluster.uri, **cluster.tls(), max_connections=20)
        client = redis.asyncio.Redis(connection_pool=pool)
        await asyncio.gather(*(count(number) for number in range(40)))
        values = await client.mget([f"counter:{number}" for number in range(5)])
        self.assertEqual([int(value) for value in values], [400] * 5)
        async with client.pipeline(transaction=True) as pipe:
            self.assertEqual(await pipe.set("{p}a", 1).get("{p}a").execute(), [True, b"1"])
        await client.aclose()


class ClusterClient(unittest.TestCase):
    """A client that asks for the slot map: it is told that the proxy owns every slot."""

    def test_it_finds_all_slots_at_the_proxy(self):
        client = redis.cluster.RedisCluster(
            host=cluster.host, port=cluster.port, password=cluster.password, ssl=True,
            decode_responses=True, **cluster.tls())
        self.assertEqual(
            {(node.host, node.port) for node in client.get_nodes()}, {(cluster.host, cluster.port)})
        for number in range(200):
            self.assertTrue(client.set(f"c:{number}", number))
        for number in range(200):
            self.assertEqual(client.get(f"c:{number}"), str(number))
        pipe = client.pipeline()
        for number in range(100):
            pipe.get(f"c:{number}")
        self.assertEqual(pipe.execute(), [str(number) for number in range(100)])
        client.close()


class SentinelClient(unittest.TestCase):
    """A client that asks a sentinel for the primary: it is told the proxy's address."""

    def test_it_finds_the_proxy(self):
        from redis.sentinel import Sentinel

        tls = {"ssl": True, "password": cluster.password, **cluster.tls()}
        sentinel = Sentinel([(cluster.host, cluster.port)], sentinel_kwargs=tls, **tls)
        self.assertEqual(sentinel.discover_master("mymaster"), (cluster.host, cluster.port))
        primary = sentinel.master_for("mymaster")
        self.assertTrue(primary.set("through-sentinel", 1))


class Failover(unittest.TestCase):
    """Primaries die by kill -9; the client does not retry, so a lost or repeated write shows."""

    def test_no_error_and_every_increment_once(self):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        def connect(protocol):
            return cluster.client(protocol=protocol, retry=Retry(NoBackoff(), 0))

        done = {}
        errors = []
        end = threading.Event()

        def work(name, protocol):
            client, count = connect(protocol), 0
            try:
                while not end.is_set():
                    count += 1
                    if client.incr(f"failover:{name}") != count:
                        raise AssertionError(f"{name}: increment {count} is not there once")
                    pipe = client.pipeline(transaction=True)
                    pipe.rpush(f"failover:{{{name}}}:list", count).llen(f"failover:{{{name}}}:list")
                    if pipe.execute() != [count, count]:
                        raise AssertionError(f"{name}: push {count} is not there once")
            except Exception as error:
                errors.append((name, count, repr(error)))
            done[name] = count

        connect(2).flushall()
        threads = [threading.Thread(target=work, args=(each, 2 + each % 2)) for each in range(6)]
        with cluster.Killing() as killing:
            for each in threads:
                each.start()
            # Long enough for each shard's primary to die once, however slow the machine is.
            while killing.kills < cluster.SHARDS and not errors:
                end.wait(0.1)
            end.wait(1)
        end.set()
        for each in threads:
            each.join()
        self.assertEqual(errors, [])
        for name, count in done.items():
            items = connect(2).lrange(f"failover:{{{name}}}:list", 0, -1)
            self.assertEqual([int(each) for each in items], list(range(1, count + 1)))

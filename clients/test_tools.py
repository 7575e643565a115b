"""redis-cli and redis-benchmark."""

import shutil
import unittest

import cluster


@unittest.skipUnless(shutil.which("redis-cli"), "needs redis-tools")
class RedisCli(unittest.TestCase):
    def test_commands(self):
        cluster.redis_cli("flushall")
        self.assertEqual(cluster.redis_cli("set", "cli", "hello"), "OK\n")
        self.assertEqual(cluster.redis_cli("get", "cli"), "hello\n")
        self.assertEqual(cluster.redis_cli("-3", "hset", "h", "f", "v"), "1\n")
        self.assertEqual(cluster.redis_cli("-3", "hgetall", "h"), "f v\n")
        self.assertIn("NOAUTH", cluster.redis_cli("-a", "", "get", "cli", check=False) or "NOAUTH")

    def test_scan_and_big_keys(self):
        cluster.redis_cli("flushall")
        cluster.redis_cli(stdin=b"".join(b"set scan:%d x\n" % number for number in range(300)))
        keys = cluster.redis_cli("--scan", "--pattern", "scan:*").split()
        self.assertEqual(sorted(keys), sorted(f"scan:{number}" for number in range(300)))
        self.assertIn("Sampled 300 keys", cluster.redis_cli("--bigkeys"))
        self.assertIn("Sampled 300 keys", cluster.redis_cli("--memkeys"))

    def test_pipe_mode(self):
        cluster.redis_cli("flushall")
        commands = b"".join(
            b"*2\r\n$4\r\nINCR\r\n$%d\r\npipe:%d\r\n" % (len(b"pipe:%d" % (n % 10)), n % 10)
            for n in range(10_000))
        self.assertIn("errors: 0, replies: 10000", cluster.redis_cli("--pipe", stdin=commands))
        self.assertEqual(cluster.redis_cli("get", "pipe:3"), "1000\n")

    def test_wrong_password(self):
        answer = cluster.redis_cli("-a", "wrong", "get", "x", check=False)
        self.assertIn("NOAUTH", answer)


@unittest.skipUnless(shutil.which("redis-benchmark"), "needs redis-tools")
class RedisBenchmark(unittest.TestCase):
    def test_every_test_of_its_list(self):
        for extra in ([], ["-P", "16"]):
            lines = cluster.redis_cli(
                "-n", "2000", "-c", "10", "-r", "1000", "--csv", *extra,
                program="redis-benchmark").splitlines()
            names = {line.split(",")[0].strip('"') for line in lines[1:]}
            for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH",
                         "LPOP", "RPOP", "SADD", "HSET", "SPOP", "ZADD", "ZPOPMIN"):
                self.assertIn(name, names)
            self.assertTrue(any(name.startswith("LRANGE_600") for name in names), names)
            self.assertTrue(any(name.startswith("MSET") for name in names), names)

"""Malformed, oversized and hostile input: Redis's own answer, and a cluster that goes on serving."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

import cluster

ANSWER_SECONDS = 10

# Each is sent on a connection of its own, after AUTH. The answer and whether the connection is
# closed afterwards must be those of redis-server.
MALFORMED = {
    "negative array": b"*-5\r\nPING\r\n",
    "huge array": b"*1048577\r\n",
    "array length is text": b"*abc\r\n",
    "array length overflows": b"*99999999999999999999\r\n",
    "empty array": b"*0\r\nPING\r\n",
    "no dollar": b"*1\r\n+PING\r\n",
    "bulk length is text": b"*1\r\n$x\r\nPING\r\n",
    "negative bulk length": b"*1\r\n$-1\r\n",
    "huge bulk length": b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
    "bulk length overflows": b"*1\r\n$99999999999999999999\r\n",
    "inline command": b"PING\r\n",
    "inline with bare newline": b"PING\n",
    "inline, quoted": b"SET hostile:q \"a b\\x41\"\r\nGET hostile:q\r\n",
    "inline, unbalanced quotes": b"SET x \"abc\r\n",
    "inline, junk after quotes": b"SET x \"abc\"d\r\n",
    "empty lines": b"\r\n\r\n\r\nPING\r\n",
    "unknown command": b"*1\r\n$7\r\nNOTHERE\r\n",
    "unknown command with arguments": b"*3\r\n$7\r\nNOTHERE\r\n$1\r\na\r\n$200\r\n" + b"b" * 200 + b"\r\n",
    "unknown command with newlines": b"*1\r\n$8\r\nNO\r\nHERE\r\n",
    "empty command": b"*1\r\n$0\r\n\r\n",
    "wrong arity": b"*1\r\n$3\r\nGET\r\n",
    "unknown subcommand": b"*2\r\n$6\r\nCLIENT\r\n$4\r\nNOPE\r\n",
    "null byte in a name": b"*1\r\n$4\r\nPI\0G\r\n",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http post": b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "string over the limit": b"*4\r\n$8\r\nSETRANGE\r\n$9\r\nhostile:s\r\n$9\r\n536870911\r\n$2\r\nab\r\n",
    "expiry overflows": b"*5\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\nEX\r\n$19\r\n9223372036854775807\r\n",
}

# Lines over 64 KiB that do not end. Nothing follows them: with an end in the same read, redis-server
# takes the line, so that its answer would depend on how the bytes arrive.
ENDLESS = {
    "inline too long": b"A" * 70_000,
    "array header too long": b"*" + b"1" * 70_000,
    "bulk header too long": b"*1\r\n$" + b"1" * 70_000,
}

# The same before AUTH.
UNAUTHENTICATED = {
    "a command": b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "unknown command": b"*1\r\n$7\r\nNOTHERE\r\n",
    "many arguments": b"*11\r\n",
    "long argument": b"*1\r\n$16385\r\n",
    "wrong password": b"*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n",
    "wrong user": b"*3\r\n$4\r\nAUTH\r\n$6\r\nnobody\r\n$5\r\nwrong\r\n",
    "wrong password in HELLO": b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$1\r\nx\r\n",
    "unknown protocol": b"*2\r\n$5\r\nHELLO\r\n$1\r\n9\r\n",
}


@contextlib.contextmanager
def redis_server(password):
    with tempfile.TemporaryDirectory() as folder:
        port = cluster.free_ports(1)[0]
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--requirepass", password, "--dir", folder,
             "--save", "", "--bind", "127.0.0.1"],
            stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + ANSWER_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    # It needs a moment to listen.
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()


def tls_connection():
    context = ssl.create_default_context(cafile=cluster.ca)
    plain = socket.create_connection((cluster.host, cluster.port), ANSWER_SECONDS)
    return context.wrap_socket(plain, server_hostname=cluster.host)


def read_until(connection, end):
    """What arrives until `end` says that it is enough, and whether the connection ended."""
    got = b""
    while not end(got):
        try:
            more = connection.recv(65536)
        except TimeoutError:
            return got, False
        except OSError:
            # Closed with something of ours unread.
            return got, True
        if not more:
            return got, True
        got += more
    return got, False


def converse(connection, password, request, marker=True):
    """What the server answers to a request, and whether it then closes the connection. A PING at
    the end tells: its answer comes, or the connection ends. Without that marker it must end."""
    with connection:
        connection.settimeout(ANSWER_SECONDS)
        if password:
            connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password))
            read_until(connection, lambda got: got.endswith(b"\r\n"))
        with contextlib.suppress(OSError):
            connection.sendall(request)
            if marker:
                connection.sendall(b"*2\r\n$4\r\nPING\r\n$6\r\nmarker\r\n")
        ends = (b"$6\r\nmarker\r\n", b"-NOAUTH Authentication required.\r\n")
        if password:
            return read_until(connection, lambda got: got.endswith(ends[0]))
        # Not authenticated: PING is refused too.
        return read_until(connection, lambda got: got.endswith(ends[1]) and got.count(b"\n") > 1)


@unittest.skipUnless(shutil.which("redis-server"), "needs redis-server")
class BesideRedis(unittest.TestCase):
    maxDiff = None

    def compare(self, cases, authenticated, marker=True):
        with redis_server(cluster.password) as port:
            password = cluster.password.encode() if authenticated else None
            for name, request in cases.items():
                with self.subTest(name):
                    plain = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
                    theirs = converse(plain, password, request, marker)
                    ours = converse(tls_connection(), password, request, marker)
                    self.assertEqual(ours, theirs)
        self.assertTrue(cluster.client().ping())

    def test_malformed_requests(self):
        self.compare(MALFORMED, True)

    def test_lines_without_an_end(self):
        self.compare(ENDLESS, True, marker=False)

    def test_before_authentication(self):
        self.compare(UNAUTHENTICATED, False)


class OnTheWire(unittest.TestCase):
    def test_plain_text_to_the_tls_port(self):
        for request in (b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 9000):
            with socket.create_connection((cluster.host, cluster.port), ANSWER_SECONDS) as plain:
                plain.sendall(request)
                got, closed = read_until(plain, lambda _: False)
                # At most a TLS alert (record type 21), then the end.
                self.assertTrue(closed)
                self.assertTrue(got == b"" or got[0] == 21, got)
        self.assertTrue(cluster.client().ping())

    def test_half_requests_and_silence(self):
        """Connections that stop in the middle of a request cost others nothing."""
        stuck = []
        for cut in range(1, 30):
            connection = tls_connection()
            connection.sendall((b"*2\r\n$4\r\nAUTH\r\n$32\r\n" + b"a" * 32)[:cut])
            stuck.append(connection)
        self.assertTrue(cluster.client().set("hostile:alive", 1))
        for connection in stuck:
            connection.close()

    def test_large_values(self):
        client = cluster.client()
        value = b"v" * (64 * 1024 * 1024)
        self.assertTrue(client.set("hostile:large", value))
        self.assertEqual(client.strlen("hostile:large"), len(value))
        self.assertEqual(client.get("hostile:large"), value)
        self.assertEqual(client.delete("hostile:large"), 1)

    def test_a_connection_that_never_reads_is_cut_or_waits(self):
        """Replies that nobody takes must not fill the proxy's memory."""
        client = cluster.client()
        client.set("hostile:reply", b"r" * 1_000_000)
        greedy = tls_connection()
        greedy.settimeout(5)
        password = cluster.password.encode()
        greedy.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password))
        with contextlib.suppress(OSError):
            for _ in range(2000):
                greedy.sendall(b"*2\r\n$3\r\nGET\r\n$13\r\nhostile:reply\r\n")
        pid = cluster.pid_of_config(f"{cluster.folder}/conf/proxy-1.toml")
        with open(f"/proc/{pid}/status") as status:
            line = next(each for each in status if each.startswith("VmRSS"))
        self.assertLess(int(line.split()[1]), 1_000_000, "kB of the proxy")
        self.assertTrue(client.ping())
        greedy.close()

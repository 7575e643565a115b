"""The cluster under test: started by `run`, found by the tests through this module."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

SHARDS = 3
PROXIES = 2
START_SECONDS = 60

# Set by `running`. `uri` is the first proxy's, which most tests need alone.
binary = None
folder = None
uri = None
uris = None
ca = None
host = None
port = None
password = None


def free_ports(count):
    """Ports that nobody listens on now. `up` refuses to start if one is taken meanwhile."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def free_range(count):
    """The first of so many free ports in a row: proxies count up from theirs."""
    while True:
        first = free_ports(1)[0]
        try:
            with contextlib.ExitStack() as stack:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
        except (OSError, OverflowError):
            pass


@contextlib.contextmanager
def running(program, data):
    global binary, folder, uri, uris, ca, host, port, password
    binary, folder = program, data
    log = data / "up.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [binary, "up", "--data-dir", data, "--shards", str(SHARDS), "--no-status",
             "--proxies", str(PROXIES), "--port", str(free_range(PROXIES)),
             "--internal-port", "21900"],
            stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        found = None
        while not found:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster did not start:\n{log.read_text()}")
            # The URI is printed when every shard serves.
            time.sleep(0.05)
            found = re.search(r"^REDIS_URL=(\S+)|^  REDIS_URL=(\S+)", log.read_text(), re.M)
        uri = found.group(1) or found.group(2)
        uris = re.findall(r"rediss://\S+", log.read_text().split("REDIS_URL=")[0])
        assert len(uris) == PROXIES and uris[0] == uri, uris
        parsed = urllib.parse.urlsplit(uri)
        host, port, password = parsed.hostname, parsed.port, parsed.password
        ca = str(data / "tls" / "ca.crt")
        give_two_workers(data / "conf" / "proxy-2.toml", urllib.parse.urlsplit(uris[1]).port)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def give_two_workers(config, port):
    """The second proxy has two worker threads, whatever the machine: `up` starts it again."""
    config.write_text("workers = 2\n" + config.read_text())
    os.kill(pid_of_config(config), signal.SIGKILL)
    deadline = time.monotonic() + START_SECONDS
    time.sleep(0.2)
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def tls():
    """Arguments that redis-py needs beside the URI."""
    return {"ssl_ca_certs": ca}


def client(proxy=0, **more):
    """A client of one of the proxies."""
    import redis

    return redis.Redis.from_url(uris[proxy], **tls(), **more)


def redis_cli(*words, stdin=None, program="redis-cli", check=True):
    """Runs redis-cli (or redis-benchmark) against the cluster; returns what it printed."""
    line = [program, "--tls", "--cacert", ca, "-h", host, "-p", str(port), "-a", password]
    if program == "redis-cli":
        line.append("--no-auth-warning")
    result = subprocess.run([*line, *words], input=stdin, capture_output=True, timeout=120)
    if check and result.returncode != 0:
        raise AssertionError(f"{words}: {result.stdout!r} {result.stderr!r}")
    return result.stdout.decode()


def operator(*words):
    """Runs one of the operator's commands; returns its JSON, if it prints any."""
    line = [binary, *words, "--cluster", folder, "--json"]
    output = subprocess.run(line, check=True, capture_output=True, timeout=60).stdout
    return json.loads(output) if output else None


def pid_of_config(path):
    """The process that runs with a configuration file."""
    wanted = os.fsencode(pathlib.Path(path).resolve())
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
    return None


def kill_a_primary(shard):
    """kill -9 of the node that leads a shard; `up` starts it again. False if nobody leads it now."""
    status = operator("status")
    leader = next(each for each in status["shards"] if each["id"] == shard)["primary_node"]
    for node in status["nodes"]:
        if node["id"] != leader:
            continue
        for config in (pathlib.Path(folder) / "conf").glob("node-*.toml"):
            if f'link-listen = "{node["address"]}"' in config.read_text():
                pid = pid_of_config(config)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    return True
    return False


class Killing:
    """Kills primaries, one shard after the other, while its block runs."""

    def __init__(self, pause=1.5):
        self.pause, self.kills, self._end = pause, 0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        while not self._end.wait(self.pause):
            self.kills += kill_a_primary(1 + self.kills % SHARDS)

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

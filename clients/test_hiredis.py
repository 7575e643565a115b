"""hiredis, the C library, by itself: TLS, RESP2 and RESP3, pipelines, while primaries die."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

import cluster

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
FINISH_SECONDS = 60


def library():
    """The folder with hiredis' sources. They come with the Python package of requirements.txt: the
    same version everywhere, while Debian 12 has 0.14, which knows neither TLS nor RESP3."""
    wanted = re.search(r"^hiredis==\S+", (HERE / "requirements.txt").read_text(), re.M).group()
    sources = TARGET / "client-libraries" / f"{wanted}-sources"
    if not sources.exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                 "--no-deps", "--no-binary", "hiredis", "--dest", folder, wanted], check=True)
            archive, = pathlib.Path(folder).glob("hiredis-*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(folder)
            sources.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / pathlib.Path(archive.name[:-7]) / "vendor" / "hiredis", sources)
    return sources


def compiled(folder):
    """The program, or a reason why there is none."""
    if not shutil.which("cc"):
        raise unittest.SkipTest("needs a C compiler")
    headers = subprocess.run(["cc", "-E", "-include", "openssl/ssl.h", "-x", "c", "/dev/null"],
                             capture_output=True)
    if headers.returncode != 0:
        raise unittest.SkipTest("needs OpenSSL's headers (apt-get install libssl-dev)")
    try:
        sources = library()
    except subprocess.CalledProcessError as error:
        raise unittest.SkipTest(f"hiredis' sources are not to be had: {error}") from error
    # The library is included as <hiredis/…>, as where it is installed.
    (folder / "hiredis").symlink_to(sources)
    files = [each for each in sources.glob("*.c") if each.name not in ("dict.c", "test.c")]
    program = folder / "check"
    subprocess.run(["cc", "-O1", "-g", "-Wall", "-I", folder, "-o", program,
                    HERE / "hiredis" / "check.c", *files, "-lssl", "-lcrypto", "-lpthread"],
                   check=True)
    return program


class Hiredis(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.program = compiled(pathlib.Path(folder.name))

    def start(self, proxy, protocol):
        port = cluster.uris[proxy].rsplit(":", 1)[1].split("/")[0]
        process = subprocess.Popen(
            [self.program, cluster.host, port, f"hiredis{protocol}", str(protocol)], text=True,
            env={**os.environ, "HOLDFAST_CA": cluster.ca, "HOLDFAST_PASSWORD": cluster.password},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(process.kill)
        return process

    def test_every_reply_is_right_while_primaries_die(self):
        cluster.client().flushall()
        programs = [self.start(0, 2), self.start(1, 3)]
        with cluster.Killing() as killing:
            while killing.kills < cluster.SHARDS and all(each.poll() is None for each in programs):
                time.sleep(0.1)
        for program in programs:
            output, _ = program.communicate(timeout=FINISH_SECONDS)
            self.assertEqual(program.returncode, 0, output)
            self.assertIn("none wrong", output)
            print(output, end="")
        self.assertGreaterEqual(killing.kills, cluster.SHARDS)

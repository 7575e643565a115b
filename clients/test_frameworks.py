"""Job frameworks, unmodified, on three shards, each in a database with a co-location rule, while
primaries die: every job runs, and none runs twice."""

import contextlib
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import cluster

FRAMEWORKS = pathlib.Path(__file__).resolve().parent / "frameworks"
DATABASES = {"rq": 4, "celery broker": 5, "celery results": 6, "sidekiq": 7}
FINISH_SECONDS = 60
sys.path.insert(0, str(FRAMEWORKS))


def setUpModule():
    for database in DATABASES.values():
        cluster.client(db=database).flushdb()
    rules = "; ".join(f"database {database}" for database in DATABASES.values())
    cluster.operator("colocation", "set", rules)


def tearDownModule():
    for database in DATABASES.values():
        cluster.client(db=database).flushdb()
    cluster.operator("colocation", "set", "")


def uri(name, **parameters):
    query = "&".join(f"{key}={value}" for key, value in parameters.items())
    return f"{cluster.uri}/{DATABASES[name]}" + (f"?{query}" if query else "")


class Jobs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.ran = self.folder / "ran"
        self.ran.touch()

    @contextlib.contextmanager
    def worker(self, line, environment=None, name="worker"):
        """A worker process while the block runs; it must end by itself when told to."""
        log = open(self.folder / f"{name}.log", "wb")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                       **(environment or {})}
        process = subprocess.Popen(line, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
            self.assertIsNone(process.poll(), self.logs())
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def logs(self):
        return "".join(f"\n--- {each.name}\n{each.read_text(errors='replace')[-4000:]}"
                       for each in sorted(self.folder.glob("*.log")))

    def enqueue_while_primaries_die(self, enqueue):
        """Gives numbers to `enqueue` until each shard's primary has died; returns how many."""
        count = 0
        with cluster.Killing() as killing:
            while killing.kills < cluster.SHARDS or count < 100:
                enqueue(count)
                count += 1
                # Some hundred jobs a second would only measure the framework.
                time.sleep(0.01)
        return count

    def numbers(self):
        return [int(line) for line in self.ran.read_text().split()]

    def assert_each_ran_once(self, count):
        deadline = time.monotonic() + FINISH_SECONDS
        while len(self.numbers()) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        # A second run of a job would come about now.
        time.sleep(1)
        self.assertEqual(sorted(self.numbers()), list(range(count)), self.logs())


class Rq(Jobs):
    def test_jobs_run_once_while_primaries_die(self):
        import rq
        import rq_jobs

        connection = cluster.client(db=DATABASES["rq"])
        queue = rq.Queue("jobs", connection=connection)
        url = uri("rq", ssl_ca_certs=cluster.ca)
        line = [sys.executable, "-c", "from rq.cli import main; main()", "worker", "--url", url,
                "--worker-class", "rq.worker.SimpleWorker", "jobs"]
        jobs = []
        with self.worker(line, name="one"), self.worker(line, name="two"):
            count = self.enqueue_while_primaries_die(
                lambda number: jobs.append(queue.enqueue(rq_jobs.record, str(self.ran), number)))
            self.assert_each_ran_once(count)
            deadline = time.monotonic() + FINISH_SECONDS
            while queue.finished_job_registry.count < count and time.monotonic() < deadline:
                time.sleep(0.1)
        results = [job.return_value(refresh=True) for job in jobs]
        self.assertEqual(results, list(range(count)), self.logs())
        self.assertEqual(queue.failed_job_registry.count, 0)
        self.assertEqual(queue.count, 0)


class Celery(Jobs):
    def test_tasks_run_once_and_results_arrive_while_primaries_die(self):
        environment = {"BROKER": uri("celery broker"), "BACKEND": uri("celery results"),
                       "CA": cluster.ca}
        os.environ.update(environment)
        import celery
        import celery_jobs

        line = [sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--pool", "threads",
                "--concurrency", "4", "--loglevel", "INFO"]
        results = []
        with self.worker(line, environment):
            count = self.enqueue_while_primaries_die(
                lambda number: results.append(celery_jobs.record.delay(str(self.ran), number)))
            got = [result.get(timeout=FINISH_SECONDS) for result in results]
            self.assertEqual(got, list(range(count)))
            self.assert_each_ran_once(count)
            # A chord counts its finished parts in the result backend.
            chord = celery.chord(celery_jobs.record.s(str(self.ran), count + each)
                                 for each in range(20))
            result = chord(celery_jobs.total.s())
            self.assertEqual(result.get(timeout=FINISH_SECONDS), sum(range(count, count + 20)))
        # A result that goes away later tells a backend that is gone by then.
        del got, result, results, chord
        gc.collect()
        celery_jobs.app.close()


@unittest.skipUnless(shutil.which("sidekiq"), "needs Debian's ruby-sidekiq")
class Sidekiq(Jobs):
    def test_jobs_run_once_while_primaries_die(self):
        environment = {"REDIS_URL": uri("sidekiq"), "CA": cluster.ca}
        line = ["sidekiq", "-r", str(FRAMEWORKS / "sidekiq_jobs.rb"), "-c", "4"]
        with self.worker(line, environment):
            log = open(self.folder / "push.log", "wb")
            self.addCleanup(log.close)
            push = subprocess.Popen(
                ["ruby", str(FRAMEWORKS / "sidekiq_push.rb"), str(self.ran)], text=True,
                env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log)

            def enqueue(number):
                push.stdin.write(f"{number}\n")
                push.stdin.flush()
                self.assertTrue(push.stdout.readline().strip(), "an id for each job")

            with push:
                count = self.enqueue_while_primaries_die(enqueue)
                push.stdin.close()
            self.assertEqual(push.returncode, 0)
            self.assert_each_ran_once(count)
        client = cluster.client(db=DATABASES["sidekiq"], decode_responses=True)
        self.assertEqual(int(client.get("stat:processed")), count)
        self.assertIn(client.get("stat:failed"), (None, "0"))
        self.assertEqual(client.zcard("retry"), 0)

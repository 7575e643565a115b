"""A Celery application with broker and result backend on the cluster."""

import os
import ssl

import celery
import rq_jobs

tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": os.environ["CA"]}
app = celery.Celery("jobs", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(broker_use_ssl=tls, redis_backend_use_ssl=tls, broker_connection_retry_on_startup=True)


@app.task
def record(path, number):
    return rq_jobs.record(path, number)


@app.task
def total(numbers):
    return sum(numbers)

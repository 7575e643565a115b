"""What RQ's workers run."""

import os


def record(path, number):
    """Appends the number to a file: what ran, and how often, stands outside of the store."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"%d\n" % number)
    os.close(file)
    return number

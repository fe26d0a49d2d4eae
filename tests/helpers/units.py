"""Units for tests of Ray's workers: what they compute must be importable by other processes."""

import logging
import os
import signal
import time


def square(job, unit):
    return job["scale"] * unit**2


def place(job, unit):
    import jax

    time.sleep(0.2)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return os.getpid(), cores, jax.local_device_count(), jax.default_backend(), os.getcwd(), os.environ["JAXIQA_TESTED"]


def killed(job, unit):
    """Kill this worker, unless ``unit`` workers have been killed before; job is a folder to count them."""
    marks = job / str(unit)
    marks.mkdir(exist_ok=True)
    if len(os.listdir(marks)) < unit:
        (marks / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return unit


def wrong(job, unit):
    if unit == "value":
        raise ValueError("model m: attack a: not finite")
    return open(unit).read()


def warned(job, unit):
    logging.getLogger("jaxiqa.tested").warning("unit %d is damaged", unit)
    return unit

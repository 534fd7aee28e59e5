"""Time limits of the tests. They stretch with the build: a sanitizer makes everything slower."""
import os
import time

SCALE_OF_BUILD = {"tsan": 3.0}
_scale = 1.0


def set_scale(build_name):
    """Chooses the scale for the tests of a build; POSTERN_TIMEOUT_SCALE overrides it."""
    global _scale
    _scale = float(os.environ.get("POSTERN_TIMEOUT_SCALE") or SCALE_OF_BUILD.get(build_name, 1.0))


def scaled(seconds):
    return seconds * _scale


def wait_until(predicate, timeout=10.0, what="", interval=0.015):
    """Waits until predicate() is true and returns its value. For what no log event tells."""
    deadline = time.monotonic() + scaled(timeout)
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {scaled(timeout):g} s: {what or predicate}")
        time.sleep(interval)

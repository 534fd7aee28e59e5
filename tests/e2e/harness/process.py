"""One program of the project as a child process, with its log.

A thread per process reads stderr and stdout line by line, parses the JSON ones and wakes whoever waits for an event.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

from .certs import PROJECT
from .timing import scaled

# Lines that fail a test wherever they appear.
BAD_LINE = re.compile(r"ERROR: AddressSanitizer|runtime error:|LeakSanitizer|WARNING: ThreadSanitizer"
                      r"|FATAL: ThreadSanitizer|Assertion .* failed|stack smashing detected|^free\(\):|double free"
                      r"|^\[err\] ")
SANITIZER_STATUS = 99


def environment(**extra):
    """The environment of a program: nothing of the caller's but what it needs, and the sanitizers' options."""
    keep = {k: os.environ[k] for k in ("PATH", "HOME", "TMPDIR") if k in os.environ}
    status = f"exitcode={SANITIZER_STATUS}"
    suppressions = PROJECT / "tests/tsan.supp"
    tsan = f":suppressions={suppressions}" if suppressions.exists() else ""
    return keep | {
        "LANG": "C.UTF-8",
        "ASAN_OPTIONS": f"detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1:{status}",
        "LSAN_OPTIONS": status,
        "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1:{status}",
        "TSAN_OPTIONS": f"second_deadlock_stack=1:halt_on_error=0:{status}{tsan}",
    } | extra


def bad_lines(lines):
    return [line for line in lines if BAD_LINE.search(line)]


def matches(event, name, fields):
    """Whether an event has the name and every field; a field's value may be a predicate."""
    if name is not None and event.get("event") != name:
        return False
    return all(key in event and (want(event[key]) if callable(want) else event[key] == want)
               for key, want in fields.items())


class Process:
    """A running program. `lines` has all it printed, `events` the JSON lines; both go on across a restart."""

    def __init__(self, name, argv, cwd, env=None):
        self.name, self.argv, self.cwd = name, [str(a) for a in argv], pathlib.Path(cwd)
        self.env = environment(**(env or {}))
        self.lines, self.events = [], []
        self.status = None  # of the last run, once it has ended
        self._child = self._reader = None
        self._started_at = 0  # index into events
        self._ended = True
        self._accounted = True  # a test said that this end was expected
        self._asked = False  # the harness asked it to stop
        self._changed = threading.Condition()
        self._reading = threading.Event()
        self._reading.set()

    # Life

    def start(self):
        assert self._ended, f"{self.name} runs already"
        self._started_at, self.status = len(self.events), None
        self._ended = self._accounted = self._asked = False
        self._child = subprocess.Popen(self.argv, cwd=self.cwd, env=self.env, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._read, args=(self._child,), daemon=True)
        self._reader.start()
        return self

    def _read(self, child):
        with open(self.cwd / f"{self.name}.log", "ab") as copy:
            for raw in child.stdout:
                self._reading.wait()
                copy.write(raw)
                copy.flush()
                line = raw.decode(errors="replace").rstrip("\n")
                event = None
                if line.startswith("{"):
                    try:
                        event = json.loads(line)
                    except ValueError:
                        pass
                with self._changed:
                    self.lines.append(line)
                    if isinstance(event, dict):
                        self.events.append(event)
                    self._changed.notify_all()
        status = child.wait()
        child.stdout.close()
        with self._changed:
            self.status, self._ended = status, True
            self._changed.notify_all()

    @property
    def pid(self):
        return self._child.pid

    @property
    def running(self):
        return not self._ended

    def signal(self, number):
        assert self.running, f"{self.name} has ended with {self.status}{self.tail()}"
        self._child.send_signal(number)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def expect_exit(self, status=0, timeout=10.0):
        """Waits for the end of the program and asserts its status (negative: the signal's number)."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self._ended, scaled(timeout))
        assert ended, f"{self.name} still runs after {scaled(timeout):g} s{self.tail()}"
        self._accounted = True
        assert self.status == status, f"{self.name} ended with {self.status}, not {status}{self.tail()}"

    def stop(self, status=0, timeout=10.0):
        """SIGTERM; asserts the status."""
        self.signal(signal.SIGTERM)
        self.expect_exit(status, timeout)

    def kill9(self):
        self.signal(signal.SIGKILL)
        self.expect_exit(-signal.SIGKILL)

    def hold_log(self):
        """Stops reading the program's output: its stderr fills up."""
        self._reading.clear()

    def release_log(self):
        self._reading.set()

    # Log

    def mark(self):
        """A position in the log, for `since`."""
        return len(self.events)

    def events_of(self, event=None, since=None, **fields):
        """The events so far of this run, or since a mark, that match."""
        return [e for e in self.events[self._started_at if since is None else since:] if matches(e, event, fields)]

    def wait_event(self, event, timeout=10.0, since=None, count=1, **fields):
        """Waits until the event was logged in this run (or since a mark) and returns it; with `count`, the nth."""
        position, found = self._started_at if since is None else since, 0
        deadline = time.monotonic() + scaled(timeout)
        with self._changed:
            while True:
                while position < len(self.events):
                    candidate = self.events[position]
                    position += 1
                    if matches(candidate, event, fields):
                        found += 1
                        if found == count:
                            return candidate
                wanted = f"{self.name}: no {event} {fields or ''}"
                assert not self._ended, f"{wanted}: the program ended with {self.status}{self.tail()}"
                left = deadline - time.monotonic()
                assert left > 0, f"{wanted} within {scaled(timeout):g} s{self.tail()}"
                self._changed.wait(left)

    def wait_line(self, pattern, timeout=10.0):
        """Waits until a line matches the regular expression, JSON or not; returns the match."""
        expression = re.compile(pattern)
        position = 0
        deadline = time.monotonic() + scaled(timeout)
        with self._changed:
            while True:
                for position in range(position, len(self.lines)):
                    match = expression.search(self.lines[position])
                    if match:
                        return match
                position = len(self.lines)
                left = deadline - time.monotonic()
                assert not self._ended and left > 0, f"{self.name}: no line like {pattern!r}{self.tail()}"
                self._changed.wait(left)

    def tail(self, count=30):
        return "\n".join([f"\n--- {self.name}, last lines:", *self.lines[-count:], "---"])

    # The end of a test

    def end_now(self):
        """Kills a program that would not stop."""
        if self.running:
            self._child.kill()
            self._reading.set()
            self._reader.join(scaled(10))

    def ask_to_stop(self):
        """The first half of finish(), so that several programs can stop at the same time."""
        self._reading.set()
        if self.running and not self._asked:
            self._asked = True
            self._child.send_signal(signal.SIGCONT)
            self._child.send_signal(signal.SIGTERM)

    def finish(self):
        """Ends a program that still runs as an operator would; returns what was wrong with how it ended."""
        self.ask_to_stop()
        if self._accounted:
            return []
        if not self._asked:
            return [f"{self.name} ended by itself with {self.status}{self.tail()}"]
        try:
            self.expect_exit(0, timeout=15.0)
        except AssertionError as error:
            self.end_now()
            return [str(error)]
        return []

    def problems(self):
        return [f"{self.name} printed: {line}" for line in bad_lines(self.lines)]

"""Programs as child processes whose output goes to a file, and what /proc says of their memory."""
import json
import pathlib
import re
import signal
import subprocess
import time

PATIENCE = 20  # seconds to wait for a line, or for the end of a program


class BenchError(Exception):
    """One line for whoever runs the benchmark."""


def wait_until(condition, what):
    """Waits until condition() is true and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BenchError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.01)
    return value


def run(argv, **options):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise BenchError(f"{pathlib.Path(argv[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


class Program:
    """A running program; `log` has what it printed."""

    def __init__(self, name, argv, folder):
        self.name = name
        number = len(list(folder.glob(f"{name}-*.log"))) + 1
        self.log = folder / f"{name}-{number}.log"
        with open(self.log, "wb") as log:
            self._child = subprocess.Popen([str(a) for a in argv], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=subprocess.STDOUT)

    @property
    def pid(self):
        return self._child.pid

    def wait_line(self, pattern):
        """Waits until the output has a match of the regular expression, and returns it."""
        def look():
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if not found:
                self.check()
            return found
        return wait_until(look, f"a line of {self.name} like {pattern!r}{self.tail()}")

    def check(self):
        if self._child.poll() is not None:
            raise BenchError(f"{self.name} has ended with {self._child.returncode}{self.tail()}")

    def signal(self, number):
        self._child.send_signal(number)

    def stop(self):
        """Ends it; returns its status, negative for a signal."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def tail(self):
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join(["", f"--- {self.log.name}, last lines:", *lines, "---"])


class Load:
    """The load generator."""

    def __init__(self, program, folder):
        self._program, self._folder = program, folder

    def target(self):
        """Starts the service behind the tunnels; returns the program and its port."""
        target = Program("target", [self._program, "target"], self._folder)
        return target, int(target.wait_line(r'"port":(\d+)')[1])

    def measure(self, mode, port, connections, seconds):
        """One run of a timed mode: its line of JSON."""
        argv = [self._program, mode, port, connections, seconds]
        done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        return self._parse(done.stdout)

    def hold(self, port, connections, while_held):
        """Opens idle visitors and calls while_held() meanwhile; returns its value and the line of JSON."""
        argv = [self._program, "hold", port, connections]
        with subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as child:
            held = json.loads(child.stdout.readline() or "{}").get("held")
            value = while_held() if held == connections else None
            rest, _ = child.communicate("\n")
        return value, self._parse(rest)

    def _parse(self, text):
        try:
            return json.loads(text)
        except ValueError:
            raise BenchError(f"the load generator gave no result: {text!r}") from None


def descendants(pid):
    """The process and all that it started, directly or not."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def private_kib(pids):
    """Resident anonymous memory of processes: heap and stacks, neither code nor the database's pages."""
    return sum(_anonymous_kib(pid) for pid in pids)


def _anonymous_kib(pid):
    # smaps_rollup is exact but not open to everybody; the kernel keeps RssAnon a few pages behind.
    try:
        text, name = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), "Anonymous"
    except PermissionError:
        text, name = pathlib.Path(f"/proc/{pid}/status").read_text(), "RssAnon"
    return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1])


def settled_kib(pids, quiet_seconds=0.5, slack_kib=16):
    """private_kib() once it has not moved for a while, or as it is in the end."""
    value, since = private_kib(pids), time.monotonic()
    deadline = since + PATIENCE
    while (now := time.monotonic()) < since + quiet_seconds and now < deadline:
        time.sleep(0.05)
        new = private_kib(pids)
        if abs(new - value) > slack_kib:
            value, since = new, now
    return value

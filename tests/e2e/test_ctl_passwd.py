"""posternctl user passwd: from a pipe and from a terminal, and that a password shows up nowhere."""
import fcntl
import hashlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import termios
import time

import pytest

from harness import scaled
from harness.process import environment

SECRET = "Correct-Horse-7 ü"
RECORD = re.compile(rb'\{"n":\d+,"r":\d+,"p":\d+,"salt":"[0-9a-f]{32}","hash":"[0-9a-f]{64}"\}')
RULE = "a password is one line of 1 to 512 bytes without control characters"
NEW, AGAIN = "New password: ", "The same again: "


class Ctl:
    """posternctl on a database with the user alice."""

    def __init__(self, build, folder):
        self.build, self.db, self.copies = build, pathlib.Path(folder) / "db", 0
        self.run("user", "add", "alice")

    def run(self, *arguments, check=True, **options):
        return self.build.run("posternctl", "--db", self.db, *arguments, check=check, **options)

    def passwd(self, text, name="alice", check=True):
        return self.run("user", "passwd", name, input=text, check=check)

    def error(self, status, text, name="alice"):
        """The one line with which it fails."""
        done = self.passwd(text, name, check=status)
        assert done.stdout == "" and done.stderr.startswith("posternctl: ") and done.stderr.count("\n") == 1
        return done.stderr.removeprefix("posternctl: ").rstrip("\n")

    def shown(self, name="alice"):
        return json.loads(self.run("user", "show", name, "--json").stdout)

    def everything(self):
        """The bytes of the store; a copy has none of what was there before."""
        self.copies += 1
        copy = self.db.parent / f"copy-{self.copies}"
        self.run("backup", copy)
        return copy.read_bytes()

    def password_is(self, text):
        """Whether the one record there is text's, as another implementation of scrypt sees it."""
        record, = RECORD.findall(self.everything())
        r = json.loads(record)
        made = hashlib.scrypt(text.encode(), salt=bytes.fromhex(r["salt"]), n=r["n"], r=r["r"], p=r["p"], dklen=32,
                              maxmem=1 << 27)
        return made.hex() == r["hash"]


@pytest.fixture
def ctl(build, tmp_path):
    return Ctl(build, tmp_path)


# From a pipe

def test_from_a_pipe(ctl):
    assert ctl.shown()["password"] is False
    done = ctl.passwd(SECRET + "\n")
    assert done.stdout == "alice has a new password\n" and done.stderr == ""
    assert ctl.shown()["password"] is True
    assert ctl.password_is(SECRET) and not ctl.password_is(SECRET + "\n")
    lines = [line.split() for line in ctl.run("user", "show", "alice").stdout.splitlines()]
    assert ["password", "yes"] in lines and ["anonymous", "no"] in lines


def test_the_newer_replaces_the_older(ctl):
    ctl.passwd("one\n")
    ctl.passwd("two\nignored\n")  # the first line
    assert ctl.password_is("two")
    ctl.passwd("three")  # without a newline
    assert ctl.password_is("three")


def test_as_json(ctl):
    done = ctl.run("user", "passwd", "alice", "--json", input="one\n")
    assert json.loads(done.stdout) == ctl.shown()


def test_it_shows_up_nowhere(ctl):
    ctl.passwd(SECRET + "\n")
    done = ctl.run("audit", "--json")
    row = json.loads(done.stdout)[-1]
    assert (row["action"], row["user"], row["detail"]) == ("user.passwd", "alice", "")
    told = done.stdout + ctl.run("user", "show", "alice", "--json").stdout + ctl.run("user", "list").stdout
    assert SECRET not in told and SECRET.encode() not in ctl.everything()
    for file in ctl.db.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    record, = RECORD.findall(ctl.everything())
    assert json.loads(record)["hash"] not in told


@pytest.mark.parametrize("text", ["x", "x" * 512, "ü" * 256, " ", "a b"])
def test_good_passwords(ctl, text):
    ctl.passwd(text + "\n")
    assert ctl.password_is(text)


@pytest.mark.parametrize("text, says", [("", "no password"), ("\n", "no password"), ("\nsecret\n", "no password"),
                                        ("x" * 513 + "\n", RULE), ("x" * 100000, RULE), ("ü" * 257 + "\n", RULE),
                                        ("secret\0\n", RULE), ("\0\n", RULE), ("sec\tret\n", RULE),
                                        ("secret\r\n", RULE), ("secret\x7f\n", RULE), ("\x1b[A\n", RULE)])
def test_bad_passwords(ctl, text, says):
    ctl.passwd("before\n")
    line = ctl.error(2, text)
    assert says in line and "secret" not in line
    assert ctl.password_is("before")


def test_unknown_user(ctl):
    assert ctl.error(1, "secret\n", name="bob") == "there is no user 'bob'"
    assert RECORD.findall(ctl.everything()) == []


def test_usage(ctl):
    assert "needs NAME" in ctl.run("user", "passwd", check=2).stderr
    assert "unexpected argument" in ctl.run("user", "passwd", "alice", "secret", check=2).stderr
    assert "passwd NAME" in ctl.run("user", "--help", "passwd").stdout


def test_removed_with_the_user(ctl):
    ctl.passwd("secret\n")
    ctl.run("user", "remove", "alice")
    assert RECORD.findall(ctl.everything()) == []


def test_names_of_anonymous_users_are_kept_for_them(ctl):
    done = ctl.run("user", "add", "anonymous-60001", check=2)
    assert "'anonymous-60001'" in done.stderr and "anonymous users" in done.stderr
    ctl.run("user", "add", "anonymous")
    assert [user["anonymous"] for user in json.loads(ctl.run("user", "list", "--json").stdout)] == [False, False]


# From a terminal

class Terminal:
    """posternctl user passwd alice with a terminal as its standard input and errors."""

    def __init__(self, ctl):
        self.master, self.slave = pty.openpty()
        self.seen = ""
        command = [ctl.build.program("posternctl"), "--db", ctl.db, "user", "passwd", "alice"]
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=subprocess.PIPE, stderr=self.slave, text=True,
                                        env=environment(), start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)

    def echo(self):
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def wait(self, text):
        """Reads on until text; returns what came before it."""
        end = time.monotonic() + scaled(20)
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode()
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text):
        os.write(self.master, text.encode())

    def answer(self, question, text):
        before = self.wait(question)
        assert not self.echo()
        self.type(text)
        return before

    def ends(self, status, *says):
        """Its standard output, once it has ended; the terminal is as it was."""
        for text in says:
            self.wait(text)
        out, _ = self.process.communicate(timeout=scaled(20))
        assert self.process.returncode == status
        assert self.echo()
        return out


def test_from_a_terminal(ctl):
    with Terminal(ctl) as terminal:
        assert terminal.echo()
        assert terminal.answer(NEW, SECRET + "\n") == ""
        assert terminal.answer(AGAIN, SECRET + "\n") == "\r\n"  # nothing of it was shown
        assert terminal.ends(0) == "alice has a new password\n"
    assert ctl.password_is(SECRET)


def test_two_that_differ(ctl):
    with Terminal(ctl) as terminal:
        terminal.answer(NEW, "one\n")
        terminal.answer(AGAIN, "two\n")
        assert terminal.ends(1, "posternctl: the two passwords differ; nothing is changed") == ""
    assert ctl.shown()["password"] is False


@pytest.mark.parametrize("typed, says", [("\n", "no password"), ("\x04", "no password"), ("x" * 600 + "\n", RULE)])
def test_bad_ones_on_a_terminal(ctl, typed, says):
    with Terminal(ctl) as terminal:
        terminal.answer(NEW, typed)
        assert terminal.ends(2, says) == ""


def test_no_question_for_a_user_that_is_not_there(ctl):
    ctl.run("user", "remove", "alice")
    with Terminal(ctl) as terminal:
        assert terminal.ends(1, "posternctl: there is no user 'alice'") == ""
        assert NEW not in terminal.seen


@pytest.mark.parametrize("at", [NEW, AGAIN])
def test_interrupted(ctl, at):
    with Terminal(ctl) as terminal:
        if at == AGAIN:
            terminal.answer(NEW, "one\n")
        terminal.wait(at)
        terminal.type("\x03")
        assert terminal.ends(-signal.SIGINT) == ""
    assert ctl.shown()["password"] is False


def test_terminated(ctl):
    with Terminal(ctl) as terminal:
        terminal.wait(NEW)
        terminal.process.terminate()
        assert terminal.ends(-signal.SIGTERM) == ""


def test_asked_anew_after_a_signal(ctl):
    """Without a shell around to continue it, nothing stops it."""
    with Terminal(ctl) as terminal:
        terminal.wait(NEW)
        terminal.type("half")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.answer(NEW, "one\n")
        terminal.answer(AGAIN, "one\n")
        assert terminal.ends(0) == "alice has a new password\n"
    assert ctl.password_is("one")

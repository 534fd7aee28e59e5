"""posternctl: every command, its exit status, its JSON, who owns what it writes. Most of it needs no gateway."""
import base64
import concurrent.futures
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading

import pytest

from harness import echo_all, tcp, wait_all_closed, wait_until

TOKEN = re.compile(r"pst_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
USER_KEYS = {"id", "name", "banned", "created", "bound", "ban", "limits", "password", "anonymous"}
TOKEN_KEYS = {"id", "label", "created", "expires", "last_used", "last_peer", "revoked", "enrol"}
SESSION_KEYS = {"id", "user", "instance", "protocol", "peer", "since", "tunnels", "visitors", "bytes_in", "bytes_out",
                "flows", "datagrams_dropped"}
DEFAULT_LIMITS = {"tunnels": 64, "connections": 4096, "instances": 16, "ports": [], "hosts": []}
NOBODY = 65534


class Ctl:
    """posternctl on one database folder."""

    def __init__(self, build, folder):
        self.build, self.db = build, pathlib.Path(folder)

    def run(self, *arguments, check=True, **options):
        return self.build.run("posternctl", "--db", self.db, *arguments, check=check, **options)

    def json(self, *arguments):
        done = self.run(*arguments, "--json")
        assert not done.stderr
        return json.loads(done.stdout)

    def error(self, status, *arguments, **options):
        """The one line with which a command fails."""
        done = self.run(*arguments, check=status, **options)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("posternctl: "), done.stderr
        return lines[0].removeprefix("posternctl: ")

    def token(self, *arguments):
        return self.run("token", "create", *arguments).stdout.strip()


@pytest.fixture
def ctl(build, tmp_path):
    return Ctl(build, tmp_path / "db")


@pytest.fixture
def alice(ctl):
    """A database with the user alice."""
    ctl.run("user", "add", "alice")
    return ctl


def parse_time(text):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", text), text
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def seconds_from_now(text):
    return (parse_time(text) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


# Users

def test_user_add_makes_a_database_and_prints_the_id(ctl):
    assert ctl.run("user", "add", "alice").stdout == "1\n"
    assert stat.S_IMODE(ctl.db.stat().st_mode) == 0o700
    for file in ctl.db.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert ctl.json("user", "add", "b.c_d-9")["id"] == 2


def test_user_ids_are_not_used_again(alice):
    alice.run("user", "remove", "alice")
    assert alice.run("user", "add", "alice").stdout == "2\n"


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "_a", "ä", "a" * 65, "a/b", "a\nb"])
def test_bad_names(ctl, name):
    assert "name" in ctl.error(2, "--json", "user", "add", "--", name)
    assert not ctl.db.exists()


def test_user_exists(alice):
    assert "'alice'" in alice.error(1, "user", "add", "alice")


def test_user_shapes(alice):
    shown = alice.json("user", "show", "alice")
    assert set(shown) == USER_KEYS
    assert shown | {"created": None} == {"id": 1, "name": "alice", "banned": False, "created": None, "bound": [],
                                         "ban": None, "limits": DEFAULT_LIMITS, "password": False,
                                         "anonymous": False}
    assert abs(seconds_from_now(shown["created"])) < 60
    assert alice.json("user", "list") == [shown]
    table = alice.run("user", "list").stdout.splitlines()
    assert table[0].split() == ["ID", "NAME", "BANNED", "CREATED", "BOUND"]
    assert table[1].split() == ["1", "alice", "no", shown["created"], "-"]
    assert ["name", "alice"] in [line.split() for line in alice.run("user", "show", "alice").stdout.splitlines()]


def test_user_list_of_nobody(alice):
    alice.run("user", "remove", "alice")
    assert alice.json("user", "list") == []


@pytest.mark.parametrize("command", [["user", "show", "bob"], ["user", "remove", "bob"], ["user", "ban", "bob"],
                                     ["user", "unban", "bob"], ["user", "bind", "bob", "tcp/1"],
                                     ["user", "unbind", "bob", "tcp/1"], ["user", "passwd", "bob"],
                                     ["user", "limit", "bob"],
                                     ["user", "limit", "bob", "--tunnels", "1"], ["token", "create", "bob"],
                                     ["token", "list", "bob"]])
def test_unknown_user(alice, command):
    assert alice.error(1, *command) == "there is no user 'bob'"


def test_remove_takes_everything_along(alice):
    alice.run("user", "bind", "alice", "tcp/2222")
    token = TOKEN.fullmatch(alice.token("alice"))[1]
    assert alice.json("user", "remove", "alice")["bound"] == ["tcp/2222"]
    alice.run("user", "add", "bob")
    alice.run("user", "bind", "bob", "tcp/2222")
    assert token in alice.error(1, "token", "revoke", token)


# Bans

def test_ban_and_unban(alice):
    alice.run("user", "ban", "alice", "--for", "2h", "--reason", "zu laut, schön")
    shown = alice.json("user", "show", "alice")
    assert shown["banned"] is True and shown["ban"]["reason"] == "zu laut, schön"
    assert 7100 < seconds_from_now(shown["ban"]["until"]) <= 7200
    shown = alice.json("user", "ban", "alice")  # replaces, for good
    assert shown["banned"] is True and shown["ban"]["until"] is None and shown["ban"]["reason"] == ""
    assert alice.json("user", "unban", "alice")["banned"] is False
    assert alice.error(1, "user", "unban", "alice") == "the user 'alice' is not banned"


def test_a_ban_runs_out(alice):
    alice.run("user", "ban", "alice", "--for", "1s")
    wait_until(lambda: not alice.json("user", "show", "alice")["banned"], 5, "the ban ends")
    assert "not banned" in alice.error(1, "user", "unban", "alice")


@pytest.mark.parametrize("options", [["--for", "1x"], ["--for", ""], ["--for", "0"], ["--for", "-1h"],
                                     ["--reason", "a\nb"], ["--reason", "\x1b[31m"], ["--reason", "x" * 257]])
def test_bad_ban_options(alice, options):
    assert alice.error(2, "user", "ban", "alice", *options).startswith(options[0] + ":")
    assert alice.json("user", "show", "alice")["banned"] is False


# Bindings

def test_bind_and_unbind(alice):
    bound = alice.json("user", "bind", "alice", "tcp/2222", "udp/30002", "host/App.Example.com")["bound"]
    assert sorted(bound) == ["host/app.example.com", "tcp/2222", "udp/30002"]
    alice.run("user", "bind", "alice", "tcp/2222")  # again is fine
    assert alice.json("user", "unbind", "alice", "tcp/2222", "host/app.example.com")["bound"] == ["udp/30002"]


def test_bind_is_all_or_nothing_and_says_whose_it_is(alice):
    alice.run("user", "add", "bob")
    alice.run("user", "bind", "alice", "tcp/2222")
    assert alice.error(1, "user", "bind", "bob", "udp/1", "tcp/2222") == "tcp/2222 is bound to the user 'alice' already"
    assert alice.json("user", "show", "bob")["bound"] == []
    assert "udp/2" in alice.error(1, "user", "unbind", "alice", "tcp/2222", "udp/2")
    assert alice.json("user", "show", "alice")["bound"] == ["tcp/2222"]
    assert "'bob'" in alice.error(1, "user", "unbind", "bob", "tcp/2222")


@pytest.mark.parametrize("what", ["tcp/0", "tcp/65536", "tcp/", "2222", "sctp/1", "host/", "host/a b", "tcp/1x"])
def test_bad_bindings(alice, what):
    assert repr(what) in alice.error(2, "user", "bind", "alice", "tcp/1", what)
    assert alice.json("user", "show", "alice")["bound"] == []


# Limits

def test_limits(alice):
    alice.run("user", "limit", "alice", "--tunnels", "4", "--ports", "20000-20100,2222", "--hosts", "*.A.example.com")
    wanted = DEFAULT_LIMITS | {"tunnels": 4, "ports": ["20000-20100", "2222"], "hosts": ["*.a.example.com"]}
    assert alice.json("user", "limit", "alice")["limits"] == wanted
    changed = alice.json("user", "limit", "alice", "--instances", "0", "--ports", "default")["limits"]
    assert changed == wanted | {"instances": 0, "ports": []}  # what was not named stays
    everything = ["--tunnels", "default", "--instances", "default", "--hosts", "default", "--connections", "default"]
    assert alice.json("user", "limit", "alice", *everything)["limits"] == DEFAULT_LIMITS
    printed = [line.split() for line in alice.run("user", "limit", "alice").stdout.splitlines()]
    assert ["tunnels", "64"] in printed


@pytest.mark.parametrize("option,value", [("--tunnels", "-1"), ("--tunnels", "x"), ("--connections", "1000001"),
                                          ("--instances", ""), ("--instances", "1 "), ("--ports", "0-4"),
                                          ("--ports", "9-8"), ("--ports", "1,,2"), ("--hosts", "a b"), ("--hosts", ""),
                                          ("--ports", ",".join(str(n) for n in range(1, 18)))])
def test_bad_limits(alice, option, value):
    assert alice.error(2, "user", "limit", "alice", option, value).startswith(option + ":")


# Tokens

def test_tokens(alice):
    token = alice.token("alice")
    assert TOKEN.fullmatch(token)
    made = alice.json("token", "create", "alice", "--expires", "30d", "--label", "my laptop")
    assert set(made) == TOKEN_KEYS | {"token", "enrolment"}
    assert TOKEN.fullmatch(made["token"])[1] == made["id"] and made["enrolment"] is None
    assert abs(seconds_from_now(made["expires"]) - 30 * 86400) < 60
    listed = alice.json("token", "list", "alice")
    assert all(set(row) == TOKEN_KEYS for row in listed)
    by_id = {row["id"]: row for row in listed}
    assert set(by_id) == {TOKEN.fullmatch(token)[1], made["id"]}
    assert by_id[made["id"]]["label"] == "my laptop"
    assert by_id[TOKEN.fullmatch(token)[1]] | {"created": None} == {
        "id": TOKEN.fullmatch(token)[1], "label": "", "created": None, "expires": None, "last_used": None,
        "last_peer": None, "revoked": None, "enrol": False}
    assert "my laptop" in alice.run("token", "list", "alice").stdout


def test_the_secret_is_nowhere_but_in_the_output(alice):
    token = alice.token("alice", "--label", "x")
    secret = token[len("pst_") + 12 + len("_"):]
    for file in alice.db.iterdir():
        assert secret.encode() not in file.read_bytes(), file
    for command in (["token", "list", "alice"], ["audit"], ["user", "show", "alice"]):
        assert secret not in alice.run(*command, "--json").stdout


def test_revoke(alice):
    token = alice.json("token", "create", "alice")
    revoked = alice.json("token", "revoke", token["id"])
    assert set(revoked) == TOKEN_KEYS and abs(seconds_from_now(revoked["revoked"])) < 60
    assert alice.run("token", "revoke", token["id"]).returncode == 0  # twice is fine
    assert alice.json("token", "list", "alice")[0]["revoked"] == revoked["revoked"]
    assert "'000000000000'" in alice.error(1, "token", "revoke", "000000000000")
    assert "'nonsense'" in alice.error(1, "token", "revoke", "nonsense")
    line = alice.error(2, "token", "revoke", token["token"])
    assert token["token"] not in line and "id" in line


@pytest.mark.parametrize("options", [["--expires", "soon"], ["--label", "x" * 129], ["--label", "a\tb"]])
def test_bad_token_options(alice, options):
    assert alice.error(2, "token", "create", "alice", *options).startswith(options[0] + ":")
    assert alice.json("token", "list", "alice") == []


# Enrolment

def openssl(folder, *arguments):
    return subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True).stdout


def public_key_pin(folder, certificate):
    pem = openssl(folder, "x509", "-in", certificate, "-noout", "-pubkey")
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, check=True,
                         capture_output=True).stdout
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """root.crt, middle.crt (a CA by root), leaf.crt (by middle), stranger.crt (an unrelated CA), alone.crt (no CA)."""
    folder = tmp_path_factory.mktemp("authority")
    ca, end = "basicConstraints=critical,CA:TRUE", "basicConstraints=critical,CA:FALSE"

    def make(name, extension, issuer=None):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
        signed = ["-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key"] if issuer else []
        request = ["req", "-new", "-subj", f"/CN={name}", *key]
        if not issuer:
            # -config keeps the system's own extensions out.
            openssl(folder, *request, "-x509", "-out", f"{name}.crt", "-config", "empty.cnf", "-addext", extension)
            return
        openssl(folder, *request, "-out", f"{name}.csr", "-config", "empty.cnf")
        (folder / "ext").write_text(extension + "\n")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", "ext", "-out", f"{name}.crt")

    (folder / "empty.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    make("root", ca)
    make("middle", ca, "root")
    make("leaf", end, "middle")
    make("stranger", ca)
    make("alone", end)
    return folder


def write_config(folder, certificate, key):
    file = folder / "gateway.json"
    file.write_text(json.dumps({"tls": {"certificate": str(certificate), "key": str(key)}, "database": "db"}))
    return file


@pytest.mark.parametrize("chain,pinned", [
    (["leaf"], "leaf"),                        # no CA in the file
    (["leaf", "middle"], "middle"),
    (["leaf", "middle", "root"], "root"),      # the topmost
    (["leaf", "root", "middle"], "root"),      # in any order
    (["leaf", "root"], "leaf"),                # the link between them is missing
    (["leaf", "stranger", "middle"], "middle"),  # a CA that issued nothing here
    (["alone", "root"], "alone"),
    (["root"], "root"),                        # a CA that is the leaf itself
])
def test_enrolment_pin(alice, authority, tmp_path, chain, pinned):
    (tmp_path / "chain.crt").write_text("".join((authority / f"{name}.crt").read_text() for name in chain))
    config = write_config(tmp_path, tmp_path / "chain.crt", authority / f"{chain[0]}.key")
    server = "gw.example.com:7841"
    line = alice.build.run("posternctl", "-c", config, "token", "create", "alice", "--enrol", server).stdout
    pin = public_key_pin(authority, f"{pinned}.crt")
    start = f"postern://{server}#pin={pin}&token="
    assert line.startswith(start) and line.count("\n") == 1
    token = TOKEN.fullmatch(line.strip().removeprefix(start))
    assert token
    listed = alice.json("token", "list", "alice")
    assert [(row["id"], row["enrol"]) for row in listed] == [(token[1], True)]


def test_enrolment_as_json_and_ipv6(alice, authority, tmp_path):
    config = write_config(tmp_path, authority / "leaf.crt", authority / "leaf.key")
    server = "[2001:db8::1]:1"
    done = alice.build.run("posternctl", "-c", config, "--json", "token", "create", "alice", "--enrol", server)
    made = json.loads(done.stdout)
    assert made["enrol"] is True and made["enrolment"].startswith(f"postern://{server}#pin=")
    assert made["enrolment"].endswith("&token=" + made["token"])


@pytest.mark.parametrize("server", ["gw.example.com", "gw.example.com:0", ":7841", "a b:1", "a#b:1", "a:1:2x"])
def test_bad_enrolment_server(alice, authority, tmp_path, server):
    config = write_config(tmp_path, authority / "leaf.crt", authority / "leaf.key")
    done = alice.build.run("posternctl", "-c", config, "token", "create", "alice", "--enrol", server, check=2)
    assert "--enrol" in done.stderr and done.stdout == ""
    assert alice.json("token", "list", "alice") == []


def test_enrolment_needs_the_configuration_and_a_certificate(alice, tmp_path):
    assert "-c" in alice.error(2, "token", "create", "alice", "--enrol", "gw:1")
    for content, why in ((None, "No such file"), ("hello\n", "no certificate")):
        certificate = tmp_path / "bad.crt"
        if content:
            certificate.write_text(content)
        config = write_config(tmp_path, certificate, certificate)
        certificate.exists() and certificate.chmod(0o600)
        done = alice.build.run("posternctl", "-c", config, "token", "create", "alice", "--enrol", "gw:1", check=False)
        assert done.returncode in (1, 2) and "bad.crt" in done.stderr and why in done.stderr, done.stderr
    assert alice.json("token", "list", "alice") == []


# Audit

def test_audit(alice):
    alice.run("user", "ban", "alice", "--reason", "abuse")
    alice.run("user", "bind", "alice", "tcp/1", "tcp/2")
    token = alice.json("token", "create", "alice", "--label", "l")
    alice.run("token", "revoke", token["id"])
    rows = alice.json("audit")
    assert all(set(row) == {"at", "actor", "action", "user", "detail", "count"} for row in rows)
    assert [row["action"] for row in rows] == ["user.add", "user.ban", "user.bind", "user.bind", "token.create",
                                               "token.revoke"]
    assert {row["actor"] for row in rows} == {f"cli:uid {os.getuid()}"} and {row["user"] for row in rows} == {"alice"}
    assert "abuse" in rows[1]["detail"] and rows[3]["detail"] == "tcp/2" and token["id"] in rows[5]["detail"]
    times = [parse_time(row["at"]) for row in rows]
    assert times == sorted(times)
    assert len(alice.run("audit").stdout.splitlines()) == len(rows)


def test_what_failed_leaves_no_row(alice):
    alice.run("user", "add", "bob")
    alice.run("user", "bind", "bob", "tcp/2")
    before = alice.json("audit")
    alice.error(1, "user", "bind", "alice", "tcp/1", "tcp/2")
    alice.error(1, "user", "unban", "alice")
    assert alice.json("audit") == before


def test_audit_since(alice):
    assert len(alice.json("audit", "--since", "1h")) == 1
    wait_until(lambda: alice.json("audit", "--since", "1s") == [], 10, "the row is older than a second")
    assert "--since" in alice.error(2, "audit", "--since", "yesterday")


def test_audit_longer_than_a_batch(alice):
    """More rows than one read takes, many within one millisecond: none is lost, none twice."""
    for first in range(1, 1201, 60):
        alice.run("user", "bind", "alice", *(f"tcp/{port}" for port in range(first, first + 60)))
    rows = alice.json("audit")
    assert [row["detail"] for row in rows[1:]] == [f"tcp/{port}" for port in range(1, 1201)]


# Backup

def test_backup_and_restore(alice, tmp_path):
    alice.run("user", "bind", "alice", "tcp/2222")
    token = alice.json("token", "create", "alice")["id"]
    file = tmp_path / "copy.mdb"
    done = alice.json("backup", file)
    assert done == {"file": str(file), "bytes": file.stat().st_size}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = alice.json("user", "list"), alice.json("token", "list", "alice")
    alice.run("user", "remove", "alice")

    restored = Ctl(alice.build, tmp_path / "restored")
    restored.db.mkdir(mode=0o700)
    shutil.move(file, restored.db / "data.mdb")
    assert (restored.json("user", "list"), restored.json("token", "list", "alice")) == before
    restored.run("token", "revoke", token)
    assert restored.run("user", "add", "bob").stdout == "2\n"


def test_backup_refuses(alice, tmp_path):
    file = tmp_path / "there"
    file.write_text("mine")
    assert str(file) in alice.error(1, "backup", file)
    assert file.read_text() == "mine"
    assert "/nowhere/" in alice.error(1, "backup", tmp_path / "nowhere/copy")


# Many at once

def test_eight_at_once_on_a_new_database(ctl):
    def add(worker):
        return [int(ctl.run("user", "add", f"u{worker}-{n}").stdout) for n in range(5)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = [number for numbers in pool.map(add, range(8)) for number in numbers]
    assert sorted(ids) == list(range(1, 41))
    users = ctl.json("user", "list")
    assert [user["id"] for user in users] == sorted(ids) and len({user["name"] for user in users}) == 40
    assert len(ctl.json("audit")) == 40


def test_one_name_is_added_once(ctl):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda _: ctl.run("user", "add", "same", check=False).returncode, range(8)))
    assert sorted(ends) == [0] + [1] * 7


# The command line

@pytest.mark.parametrize("arguments,says", [
    ([], "command"), (["user"], "'user'"), (["users"], "'users'"), (["user", "rename", "a"], "'user rename'"),
    (["user", "config", "alice", "f"], "'user config'"),
    (["drain"], "'drain'"), (["user", "limit", "alice", "--rate", "1"], "--rate"),
    (["user", "limit", "alice", "--quota", "1"], "--quota"), (["user", "add"], "NAME"),
    (["user", "add", "a", "b"], "'b'"),
    (["user", "ban", "alice", "--for"], "--for"), (["user", "ban", "alice", "--for", "1h", "--for=2h"], "--for"),
    (["user", "list", "--json=yes"], "--json"), (["--bogus", "user", "list"], "--bogus"),
    (["user", "list", "-x"], "-x"),
    (["user", "add", "--for", "1h"], "--for"), (["user", "list", "--log", "xml"], "'xml'"),
    (["user", "list", "--log-level", "loud"], "'loud'"), (["user", "list", "-c", "x"], "-c and --db"),
    (["audit", "extra"], "'extra'"), (["session", "kick", "a b"], "'a b'"), (["session", "kick", "a/"], "'a/'"),
    (["session", "kick", "a/b/c"], "'a/b/c'"),
])
def test_bad_usage(alice, arguments, says):
    assert says in alice.error(2, *arguments)


def test_help_fits_a_screen(build):
    done = build.run("posternctl", "--help")
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and all(len(line) <= 80 for line in lines) and "example:" in done.stdout
    for command in ("user add", "user passwd", "user limit", "token create", "session kick", "status", "audit",
                    "reload", "backup"):
        assert command in done.stdout
        one = build.run("posternctl", *command.split(), "--help").stdout
        assert f"{command}" in one and "example:" in one and len(one.splitlines()) <= 24
    assert "--reason TEXT" in build.run("posternctl", "user", "ban", "--help").stdout
    for later in ("drain", "--rate", "--quota", "user config"):
        assert later not in done.stdout


def test_options_anywhere(alice):
    for words in (["--json", "user", "list"], ["user", "--json", "list"], ["user", "list", "--json"]):
        assert len(json.loads(alice.run(*words).stdout)) == 1
    assert alice.run("user", "ban", "--for=1h", "alice", "--reason=").returncode == 0


def test_output_that_cannot_be_written(alice):
    with open("/dev/full", "w") as full:
        done = subprocess.run([alice.build.program("posternctl"), "--db", alice.db, "user", "list"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "cannot write" in done.stderr


def test_errors_as_json(alice):
    done = alice.run("--log", "json", "user", "show", "bob", check=1)
    line = json.loads(done.stderr)
    assert line["level"] == "error" and line["msg"] == "there is no user 'bob'"


# Where the database is

def test_configuration_by_default_and_by_option(build, tmp_path):
    done = build.run("posternctl", "user", "list", cwd=tmp_path, check=False)
    if not pathlib.Path("/etc/postern/gateway.json").exists():
        assert done.returncode == 2 and "gateway.json" in done.stderr and "--db" in done.stderr
    key = tmp_path / "x.key"
    key.touch(0o600)
    config = write_config(tmp_path, "x.crt", "x.key")
    build.run("posternctl", "user", "add", "alice", cwd=tmp_path)
    assert (tmp_path / "db/data.mdb").exists()
    assert "alice" in build.run("posternctl", "-c", config, "user", "list").stdout
    good = json.loads(config.read_text())
    wrong_type, unknown_key = good | {"database": 1}, good | {"datebase": "x"}
    for bad, says in ((wrong_type, "database"), ("{", "gateway.json"), (unknown_key, "datebase")):
        config.write_text(bad if isinstance(bad, str) else json.dumps(bad))
        done = build.run("posternctl", "-c", config, "user", "list", check=2)
        assert says in done.stderr and "gateway.json" in done.stderr and len(done.stderr.splitlines()) == 1
    done = build.run("posternctl", "-c", tmp_path / "none.json", "user", "list", check=2)
    assert "none.json" in done.stderr


def test_no_database(ctl):
    assert ctl.error(1, "user", "list") == f"the database folder {ctl.db} does not exist"
    assert str(ctl.db) in ctl.error(1, "token", "create", "alice")
    assert not ctl.db.exists()
    ctl.db.mkdir()
    assert str(ctl.db) in ctl.error(1, "user", "list")
    assert str(ctl.db) in ctl.error(1, "backup", ctl.db / "copy")
    ctl.db.rmdir()
    assert str(ctl.db / "deep") in Ctl(ctl.build, ctl.db / "deep").error(1, "user", "add", "alice")


def test_warns_of_loose_files(alice, tmp_path):
    (alice.db / "data.mdb").chmod(0o644)
    (tmp_path / "x.key").touch()
    (tmp_path / "x.key").chmod(0o640)
    config = write_config(tmp_path, "x.crt", "x.key")
    done = alice.build.run("posternctl", "-c", config, "user", "list")
    assert "data.mdb" in done.stderr and "x.key" in done.stderr and len(done.stderr.splitlines()) == 2
    assert not alice.build.run("posternctl", "-c", config, "user", "list", "--log-level", "error").stderr
    json.loads(alice.build.run("posternctl", "-c", config, "user", "list", "--json").stdout)


@pytest.fixture
def open_folder():
    """A folder that any user can reach, for what happens after posternctl gave root's power up."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-ctl-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as somebody else")
def test_root_acts_as_the_owner_of_the_folder(build, open_folder):
    mine = open_folder / "gateway"
    mine.mkdir(mode=0o755)
    os.chown(mine, NOBODY, NOBODY)
    ctl = Ctl(build, mine / "db")  # made as the owner of the folder that it lies in
    ctl.run("user", "add", "alice")
    ctl.run("token", "create", "alice")
    ctl.run("backup", mine / "copy.mdb")
    for path in (ctl.db, *ctl.db.iterdir(), mine / "copy.mdb"):
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY), path
    assert {row["actor"] for row in ctl.json("audit")} == {"cli:uid 0"}
    refused = ctl.error(1, "backup", open_folder / "copy.mdb")  # root's folder
    assert f"uid {NOBODY}" in refused and "Permission denied" in refused


# A gateway that answers oddly, and none

@contextlib.contextmanager
def fake_gateway(folder, answer, listen=True):
    """Accepts one client on postern.sock, keeps its request line in `requests`, sends `answer`, closes."""
    requests = []
    folder.mkdir(mode=0o700, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_PATH)
    server.bind(f"/proc/self/fd/{here}/postern.sock")

    def serve():
        client, _ = server.accept()
        with client:
            requests.append(client.makefile().readline())
            client.sendall(answer)
    thread = threading.Thread(target=serve, daemon=True)
    if listen:
        server.listen()
        thread.start()
    yield requests
    if listen:
        thread.join(10)
    server.close()
    os.close(here)
    (folder / "postern.sock").unlink()


LIVE = [["session", "list"], ["session", "kick", "alice"], ["status"], ["reload"]]


@pytest.mark.parametrize("command", LIVE)
def test_no_gateway(ctl, command):
    assert ctl.error(1, *command).startswith(f"no gateway is running on {ctl.db} (")
    ctl.run("user", "add", "alice")
    assert ctl.error(1, *command).startswith(f"no gateway is running on {ctl.db} (")
    with fake_gateway(ctl.db, b"", listen=False):  # what a killed gateway leaves
        assert ctl.error(1, *command).startswith(f"no gateway is running on {ctl.db} (")


@pytest.mark.parametrize("answer,says", [
    (b"", "no answer"), (b'{"ok":true,"data":[]}', "no answer"), (b"\n", "makes no sense"), (b"[]\n", "makes no sense"),
    (b'{"ok":true}\n', "makes no sense"),
    (b'{"ok":false,"error":"tls.key: too\\u001b[1m bad"}\n', "tls.key: too [1m bad"),
])
def test_odd_answers(ctl, answer, says):
    with fake_gateway(ctl.db, answer):
        assert says in ctl.error(1, "reload")


def test_requests_and_answers(ctl):
    row = {"id": 7, "user": "alice", "instance": "default", "protocol": "trunk", "peer": "192.0.2.1:5", "since":
           "2026-01-01T00:00:00Z", "tunnels": 2, "visitors": 3, "bytes_in": 1 << 40, "bytes_out": 0,
           "flows": 1, "datagrams_dropped": 4}

    def ask(data, *words):
        with fake_gateway(ctl.db, json.dumps({"ok": True, "data": data}).encode() + b"\n") as requests:
            done = ctl.run(*words)
        return json.loads(requests[0]), done.stdout

    request, out = ask([row], "session", "list", "--json")
    assert request == {"command": "session.list"} and json.loads(out) == [row]
    table = ask([row], "session", "list")[1].splitlines()
    assert len(table) == 2 and table[1].split() == [str(value) for value in row.values()]
    request, out = ask({"kicked": 1}, "session", "kick", "alice/laptop")
    assert request == {"command": "session.kick", "user": "alice", "instance": "laptop"} and "1 session" in out
    request, out = ask({"kicked": 2}, "session", "kick", "alice", "--json")
    assert request == {"command": "session.kick", "user": "alice"} and json.loads(out) == {"kicked": 2}
    request, out = ask({"version": "1", "sessions": 4}, "status")
    assert request == {"command": "status"}
    assert [line.split() for line in out.splitlines()] == [["version", "1"], ["sessions", "4"]]
    request, out = ask(None, "reload", "--json")
    assert request == {"command": "reload"} and json.loads(out) is None
    with fake_gateway(ctl.db, b'{"ok":true,"data":{"kicked":0}}\n'):
        assert ctl.error(1, "session", "kick", "alice/x") == "there is no session of 'alice/x'"


# With a gateway

def test_a_running_gateway(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("echo", echo)], instance="b")
    visitors = lab.visits(agent.port_of("echo"), 3)
    echo_all(visitors, b"hello")
    row, = gateway.ctl("session", "list", json=True)
    assert set(row) == SESSION_KEYS
    wanted = {"user": "alice", "instance": "b", "protocol": "trunk", "tunnels": 1, "visitors": 3}
    assert row | wanted == row
    assert abs(seconds_from_now(row["since"])) < 60
    status = gateway.ctl("status", json=True)
    assert (status["sessions"], status["tunnels"], status["visitors"]) == (1, 1, 3) and status["uptime_seconds"] >= 0
    assert gateway.reload().stdout
    assert "no session" in gateway.ctl("session", "kick", "alice/other", check=1).stderr
    assert gateway.ctl("session", "kick", "alice/b", json=True) == {"kicked": 1}
    assert len(wait_all_closed(visitors, timeout=1.0)) == 3
    wait_until(lambda: gateway.tokens("alice")[0]["last_used"], 5, "the use of the token is noted")


def test_commands_on_the_store_beside_a_gateway(lab):
    gateway = lab.gateway()
    ctl = Ctl(lab.build, gateway.database)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: gateway.add_user(f"u{n}"), range(16)))
    assert sorted(ids) == list(range(1, 17)) and len(ctl.json("user", "list")) == 16
    ctl.run("backup", lab.folder / "copy.mdb")


def test_an_enrolment_line_is_all_that_an_agent_needs(lab):
    gateway, echo = lab.gateway(), lab.echo()
    gateway.add_user("alice")
    line = gateway.create_token("alice", enrol=True)
    agent = lab.agent(gateway, arguments=["tcp", echo.address, "--name", "n"], enrol=line)
    echo_all(lab.visits(agent.port_of("n"), 1), b"hello")
    used, = gateway.tokens("alice")
    assert used["enrol"] is True

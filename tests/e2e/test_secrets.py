"""Where a token may not be found, who may reach the database and the admin socket, and what a hostile name does."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import tempfile
import unicodedata

import pytest

from harness import echo_all, tcp, wait_until
from trunk_peer import CONTROL, frame, hello, scripted

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def as_text(program):
    """The same program with its log in text."""
    program.argv[program.argv.index("json")] = "text"
    return program


def command_line(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


# Tokens

def abuse(gateway, scripted, token):
    """Hellos that hold the token where it may end up in an error."""
    for message in (hello(token, version=-1), hello(token, instance=token), hello([token]), hello(token, run=token),
                    hello(token, previous=token), hello(token, features=[token]), hello(token, software=7),
                    hello(token + "x"), hello(token[:-1]), {"type": token}):
        agent = scripted(gateway, login=False)
        agent.control(message)
        agent.expect_close()
    for text in (f'{{"type":"hello","token":"{token}","token":"{token}"}}', f'{{"type":"hello","token":"{token}',
                 f'{{"type":"hello","token":{token}}}', f'["{token}"]', f'"{token}"', token):
        agent = scripted(gateway, login=False)
        agent.frame(CONTROL, 0, text.encode())
        agent.expect_close()


def test_a_token_is_in_no_log_no_argument_and_no_file(lab, scripted):
    gateway, echo = lab.gateway(log_level="debug", start=False), lab.echo()
    gateway.start()
    token, revoked = gateway.token_for("alice"), gateway.create_token("alice")
    line = gateway.create_token("alice", enrol=True)
    agent = lab.agent(gateway, token, [tcp("echo", echo)], log_level="debug")
    def one_line(tunnel, **options):
        return lab.agent(gateway, arguments=["tcp", echo.address, "--name", tunnel], instance=tunnel, log_level="debug",
                         **options)
    enrolled, by_environment = one_line("n", enrol=line), one_line("e", env={"POSTERN_TOKEN": token})
    programs = [gateway, agent, enrolled, by_environment]
    for program, tunnel in zip(programs[1:], ("echo", "n", "e")):
        echo_all(lab.visits(program.port_of(tunnel), 1), b"hello")
    gateway.ctl("token", "revoke", revoked.split("_")[1])
    abuse(gateway, scripted, token)
    abuse(gateway, scripted, revoked)
    gateway.reload()
    wait_until(lambda: all(t["last_used"] for t in gateway.tokens("alice") if t["id"] != revoked.split("_")[1]), 5)
    gateway.ctl("backup", "copy.mdb")
    secrets = [text.rpartition("=")[2].split("_", 2)[2] for text in (token, revoked, line)]
    places = {"cmdline": b"".join(command_line(program.pid) for program in programs),
              "audit": gateway.ctl("audit").stdout.encode(), "tokens": json.dumps(gateway.tokens("alice")).encode(),
              "sessions": json.dumps(gateway.sessions()).encode()}
    for file in (gateway.cwd / "copy.mdb", *gateway.database.iterdir()):
        places[file.name] = file.read_bytes() if file.is_file() else b""
    for program in programs:
        places[program.name] = "\n".join(program.lines).encode()
    for secret in secrets:
        assert len(secret) == 43
        assert not [name for name, content in places.items() if secret.encode() in content]
    assert b"127.0.0.1" in places["gateway1"] and b"alice" in places["data.mdb"]  # looked at the right things


def test_a_token_is_in_no_text_log(lab, scripted):
    gateway = as_text(lab.gateway(log_level="debug", start=False)).start(ready=False)
    gateway.wait_line("gateway.ready")
    token = gateway.token_for("alice")
    abuse(gateway, scripted, token)
    agent = as_text(lab.agent(gateway, token, [tcp("echo", lab.echo())], log_level="debug", start=False)).start()
    agent.wait_line(r"echo: 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+")
    gateway.wait_line("auth.fail: .*reason=unknown_token")
    text = "\n".join([*gateway.lines, *agent.lines])
    assert token.split("_", 2)[2] not in text and "malformed" in text


# Files and the admin socket

def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def test_files_are_the_owners_whatever_the_umask(lab):
    before = os.umask(0)
    try:
        gateway = lab.gateway()
        assert modes(gateway.database) == {"db": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600, "postern.sock": 0o600}
        gateway.ctl("backup", "copy.mdb")
        assert stat.S_IMODE((gateway.cwd / "copy.mdb").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def ask_as(uid, folder, request):
    """What the admin socket in `folder` answers to another user; the folder is entered while still root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect("postern.sock")
                with contextlib.suppress(BrokenPipeError):  # refused before it has asked
                    client.sendall(request)
                answer = client.makefile().readline()
        except OSError as error:
            answer = f"{type(error).__name__}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@needs_root
def test_the_admin_socket_is_for_the_owner_and_root(lab):
    gateway = lab.gateway()
    kick = b'{"command":"status"}\n'
    assert json.loads(ask_as(0, gateway.database, kick))["ok"] is True
    assert ask_as(NOBODY, gateway.database, kick) == "PermissionError"
    gateway.database.chmod(0o755)
    (gateway.database / "postern.sock").chmod(0o666)  # even so
    answer = json.loads(ask_as(NOBODY, gateway.database, kick))
    assert answer["ok"] is False and "only the owner" in answer["error"]
    gateway.wait_event("admin.refuse", uid=NOBODY)


@needs_root
def test_the_owner_of_the_folder_may_use_the_socket(lab):
    """The gateway of an unprivileged user: that user and root may, others may not."""
    gateway = lab.gateway()
    os.chown(gateway.database, NOBODY, NOBODY)
    os.chown(gateway.database / "postern.sock", NOBODY, NOBODY)
    gateway.stop()
    os.chown(gateway.database / "data.mdb", NOBODY, NOBODY)
    os.chown(gateway.database / "lock.mdb", NOBODY, NOBODY)
    gateway.start()
    os.chown(gateway.database / "postern.sock", NOBODY, NOBODY)
    assert json.loads(ask_as(NOBODY, gateway.database, b'{"command":"status"}\n'))["ok"] is True
    (gateway.database / "postern.sock").chmod(0o666)
    gateway.database.chmod(0o755)
    assert json.loads(ask_as(NOBODY - 1, gateway.database, b'{"command":"status"}\n'))["ok"] is False


# Hostile names

EVIL = "\r\n2026-01-01T00:00:00.000Z INFO  gateway.ready: forged\n\x1b[2J\x1b]0;owned\x07\x9b31m‮​\u2028\x7f"


def is_clean(line, unwanted=("Cc", "Cf", "Zl", "Zp")):
    return not [c for c in line if unicodedata.category(c) in unwanted]


@pytest.mark.parametrize("log", ["json", "text"])
def test_hostile_texts_stay_within_their_line(lab, scripted, log):
    gateway = lab.gateway(log_level="debug", start=False)
    if log == "text":
        as_text(gateway)
    gateway.start(ready=False).wait_line("gateway.ready")
    token = gateway.token_for("alice")
    agent = scripted(gateway, login=False)
    agent.control(hello(token, software=EVIL))
    agent.expect_control("welcome")
    agent.open_tunnel(description=EVIL)
    agent.ask_tunnel("other", 2, port=1, strict_port=True, description=EVIL)
    agent.expect_control("tunnel_refused")
    agent.control({"type": "end", "reason": "protocol", "message": EVIL})
    agent.expect_close()
    names = (EVIL, "a" + EVIL, "x" * 65, "ä", "\u0000", "a" * 10_000)
    for name in names:
        for message in (hello(token, instance=name), hello(token, run=name), {"type": name}, hello(token) | {name: 1},
                        hello(token, previous=name), hello(token, features=[name])):
            agent = scripted(gateway, login=False)
            agent.control(message)
            agent.expect_end("protocol")
        agent = scripted(gateway, token)
        agent.ask_tunnel(name)
        agent.expect_end("protocol")
    for raw in (b'{"type":"hello","instance":"\xff\xfe"}', b'{"type":"\xc3(","token":"x"}', b'{"\xed\xa0\x80":1}'):
        agent = scripted(gateway, login=False)
        agent.send(frame(CONTROL, 0, raw))
        agent.expect_end("protocol")
    raw = scripted(gateway, login=False)
    raw.send_until_closed(EVIL.encode() * 20)
    raw.expect_end("protocol")
    wanted = len(names) * 6 + 4
    wait_until(lambda: len([line for line in gateway.lines if "auth.fail" in line]) >= wanted, 10, "every refusal")
    assert all(is_clean(line) for line in gateway.lines)
    assert len([line for line in gateway.lines if line.startswith("2026-01-01T00")]) == 0
    assert [line for line in gateway.lines if "forged" in line and "\\r\\n" in line]  # it is there, and escaped
    if log == "json":
        assert all(isinstance(json.loads(line), dict) for line in gateway.lines)
        assert [event for event in gateway.events if EVIL in event.get("msg", "")]


def test_hostile_words_for_the_tools(lab):
    """What cannot be a name is refused in one clean line, whatever bytes it has."""
    lab.run("posternctl", "--db", "db", "user", "add", "alice")
    hostile = (EVIL.encode(), b"a\xff", b"a" * 100_000, b"\xc3(", b"a\tb", "ａ".encode() * 100)
    for word in hostile:
        for arguments in (["user", "add"], ["user", "show"], ["token", "list"], ["token", "revoke"],
                          ["session", "kick"], ["user", "bind", "alice"],
                          ["user", "ban", "alice", "--reason"], [], ["user"]):
            command = [lab.build.program("posternctl"), "--db", lab.folder / "db", *arguments, word]
            done = subprocess.run(command, capture_output=True, timeout=30)
            assert done.returncode in (1, 2), (arguments, word)
            said = done.stderr.decode()  # UTF-8
            assert said.count("\n") == 1 and is_clean(said[:-1], ["Cc"]) and len(said) < 1000, (arguments, said)
    assert len(json.loads(lab.run("posternctl", "--db", "db", "user", "list", "--json").stdout)) == 1


@needs_root
def test_a_loose_folder_is_reachable_by_no_one_else(lab):
    """A database folder that was made beforehand, open to all: the files in it still are the owner's alone."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-secrets-"))
    try:
        folder.chmod(0o777)
        lab.run("posternctl", "--db", folder, "user", "add", "alice")
        assert modes(folder) | {folder.name: 0} == {folder.name: 0, "data.mdb": 0o600, "lock.mdb": 0o600}
    finally:
        shutil.rmtree(folder)

"""The release build: what the linker was asked for, and no core files."""
import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

import pytest

from harness import Process, wait_until

pytestmark = pytest.mark.release
NOBODY = 65534
PROGRAMS = ("posternd", "postern", "posternctl")


def readelf(option, program):
    return subprocess.run(["readelf", "-W", option, program], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_are_hardened(build, name):
    program = build.program(name)
    header, segments, dynamic = readelf("-h", program), readelf("-l", program), readelf("-d", program)
    assert re.search(r"Type:\s+DYN", header) and re.search(r"FLAGS_1.*\bPIE\b", dynamic)
    assert "GNU_RELRO" in segments and re.search(r"\(FLAGS\).*BIND_NOW|FLAGS_1.*\bNOW\b", dynamic)
    stack, = re.findall(r"GNU_STACK.*", segments)
    assert re.search(r"\bRW\b", stack) and "RWE" not in stack
    assert not re.search(r"^\s+LOAD.*\bRWE\b", segments, re.M)
    symbols = readelf("--dyn-syms", program)
    assert "__stack_chk_fail" in symbols and re.search(r"__\w+_chk\b", symbols.replace("__stack_chk_fail", ""))
    assert not re.search(r"R(UN)?PATH", dynamic)


def core_limits(pid):
    line, = re.findall(r"Max core file size.*", pathlib.Path(f"/proc/{pid}/limits").read_text())
    return line.split()[4:6]


@pytest.fixture
def open_folder():
    """A folder of nobody's, for programs that run as nobody: of theirs /proc shows whether they may be dumped."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-hardening-"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def as_nobody(build, folder, name, *arguments):
    """Starts a copy of the program, which nobody may not read otherwise."""
    copy = folder / name
    shutil.copy(build.program(name), copy)
    copy.chmod(0o755)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return Process(name, [*become, copy, *arguments], folder)


def owner(pid):
    """Of what cannot be dumped, root owns the files in /proc."""
    return os.stat(f"/proc/{pid}/status").st_uid


def write_private(path, content):
    path.write_bytes(content)
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o600)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_no_core_files(build, certs, open_folder):
    for source in (certs.crt, certs.key, certs.ca):
        write_private(open_folder / source.name, source.read_bytes())
    write_private(open_folder / "token", b"pst_x\n")
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as stack:
        write_private(open_folder / "gateway.json", b'{"control": {"listen": ["127.0.0.1:0"]}, "tls": {"certificate":'
                      b' "gateway.crt", "key": "gateway.key"}, "tunnels": {"address": "127.0.0.1"}}')
        gateway = as_nobody(build, open_folder, "posternd", "-c", "gateway.json", "--log", "json")
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        agent = as_nobody(build, open_folder, "postern", "tcp", "22", "--server", server, "--token-file", "token",
                          "--ca", "ca.crt")
        for program in (gateway, agent):
            program.start()
            stack.callback(program.end_now)
        gateway.wait_event("gateway.ready")
        silent.settimeout(10)
        silent.accept()
        for program in (gateway, agent):
            assert core_limits(program.pid) == ["0", "0"] and owner(program.pid) == 0, program.name
        # posternctl is caught while it waits for an answer.
        gateway.freeze()
        ctl = as_nobody(build, open_folder, "posternctl", "--db", "db", "status")
        ctl.start()
        stack.callback(ctl.end_now)
        wait_until(lambda: any("socket:" in os.readlink(f"/proc/{ctl.pid}/fd/{fd}")
                               for fd in os.listdir(f"/proc/{ctl.pid}/fd")), 10, "posternctl asks")
        assert core_limits(ctl.pid) == ["0", "0"] and owner(ctl.pid) == 0
        gateway.thaw()
        ctl.expect_exit(0)

"""Bad configurations and bad usage: status 2 and one line that names the file, the key and what is wrong."""
import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import pytest

NOBODY = 65534


def one_line(done, status):
    assert done.returncode == status, f"{done.returncode}: {done.stderr}"
    assert done.stdout == "" and done.stderr.count("\n") == 1, f"not one line: {done.stdout}{done.stderr}"
    return done.stderr.strip()


class Home:
    """A folder with certificates, a token and good configurations of gateway and agent."""

    def __init__(self, lab, certs):
        self.lab, self.folder = lab, lab.folder
        for path in (certs.crt, certs.key, certs.ca):
            shutil.copy(path, self.folder)
        shutil.copy(certs.other().key, self.folder / "other.key")
        for name in ("gateway.key", "other.key"):
            (self.folder / name).chmod(0o600)
        (self.folder / "token").write_text("pst_x\n")
        (self.folder / "token").chmod(0o600)
        self.gateway = {"control": {"listen": ["127.0.0.1:0"]},
                        "tls": {"certificate": "gateway.crt", "key": "gateway.key"}}
        self.agent = {"server": "127.0.0.1:1", "token_file": "token", "tls": {"ca": "ca.crt"},
                      "tunnels": [{"name": "ssh", "protocol": "tcp", "target": "127.0.0.1:22"}]}

    def write(self, name, content):
        (self.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    def check(self, content):
        self.write("gateway.json", content)
        return self.lab.run("posternd", "--check", "-c", "gateway.json", check=False)

    def start(self, content):
        """Starts a gateway that must fail."""
        self.write("gateway.json", content)
        return self.lab.run("posternd", "-c", "gateway.json", "--log-level", "error", check=False)

    def start_agent(self, content):
        self.write("agent.json", content)
        return self.lab.run("postern", "-c", "agent.json", check=False)


@pytest.fixture
def home(lab, certs):
    return Home(lab, certs)


def put(base, path, value):
    """A copy of a configuration with one value changed; `path` is dotted, numbers index lists."""
    result = json.loads(json.dumps(base))
    at, keys = result, [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in keys[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
    at[keys[-1]] = value
    return result


GATEWAY = [
    ("colour", "red", "unknown key colour"),
    ("limits.dead_second", 1, "unknown key limits.dead_second"),
    ("tls.verify", False, "unknown key tls.verify"),
    ("nsp.plaintext", {"contrl": "127.0.0.1:1"}, "nsp.plaintext.contrl"),
    ("limits", 7, "limits: expected an object, got an integer"),
    ("limits.dead_seconds", "45", "limits.dead_seconds: expected an integer, got a string"),
    ("limits.dead_seconds", 4.5, "limits.dead_seconds: expected an integer, got a fraction"),
    ("limits.dead_seconds", None, "limits.dead_seconds: expected an integer, got null"),
    ("limits.dead_seconds", 0, "limits.dead_seconds: 0 is out of range 2..86400"),
    ("limits.heartbeat_seconds", 45, "limits.heartbeat_seconds: 45 is not less than limits.dead_seconds, 45"),
    ("limits.buffer_mib", 1 << 62, "limits.buffer_mib: 4611686018427387904 is out of range"),
    ("workers", -1, "workers: -1 is out of range 0..256"),
    ("workers", True, "workers: expected an integer, got a boolean"),
    ("anonymous", 1, "anonymous: expected true or false, got an integer"),
    ("log.level", "loud", 'log.level: "loud" is none of'),
    ("log.format", "xml", 'log.format: "xml" is none of'),
    ("control.listen", "127.0.0.1:7841", "control.listen: expected a list of strings, got a string"),
    ("control.listen", [], "control.listen: needs at least one address"),
    ("control.listen", ["localhost:7841"], 'control.listen: "localhost:7841" is not an IP address with a port'),
    ("control.listen", ["127.0.0.1:65536"], "control.listen: "),
    ("tunnels.address", "everywhere", 'tunnels.address: "everywhere" is not an IP address'),
    ("tunnels.ports", "20000-", "tunnels.ports: "),
    ("tunnels.ports", "3-2", 'tunnels.ports: "3-2" is not a range of ports'),
    ("tunnels.ports", "0-9", "tunnels.ports: "),
    ("tls.min_version", "1.1", 'tls.min_version: "1.1" is none of "1.2", "1.3"'),
    ("nsp.dialect", "2.0", 'nsp.dialect: "2.0" is none of'),
    ("nsp.plaintext", {"control": "0.0.0.0:12308"}, "nsp.plaintext.control: 0.0.0.0:12308 is not a loopback address"),
    ("tls.certificate", "", "tls.certificate: is empty"),
    ("tls.key", None, "tls.key: expected a string, got null"),
    ("tls.certificate", "none.crt", "tls.certificate none.crt: No such file or directory"),
    ("tls.certificate", ".", "tls.certificate .: Is a directory"),
    ("tls.certificate", "token", "tls.certificate token: holds no certificate"),
    ("tls.key", "none.key", "tls.key none.key: No such file or directory"),
    ("tls.key", "token", "tls.key token: holds no private key"),
    ("tls.key", "other.key", "tls.key other.key: not the key of the first certificate in gateway.crt"),
    ("tls.client_ca", "none.crt", "tls.client_ca none.crt: No such file or directory"),
    ("tls.client_ca", "token", "tls.client_ca token: holds no certificate"),
]


def test_bad_gateway_json(home):
    for path, value, says in GATEWAY:
        done = home.check(put(home.gateway, path, value))
        line = one_line(done, 2)
        assert line.startswith("posternd: gateway.json: ") and says in line, f"{path}: {line}"
    done = home.check(home.gateway)
    assert (done.returncode, done.stdout, done.stderr) == (0, "gateway.json: ok\n", "")


def test_a_start_refuses_what_the_check_refuses(home):
    for path, value, says in (GATEWAY[0], GATEWAY[8], *GATEWAY[-6:]):
        line = one_line(home.start(put(home.gateway, path, value)), 2)
        assert line.startswith("posternd: gateway.json: ") and says in line, f"{path}: {line}"
    assert not (home.folder / "db").exists()


BROKEN_JSON = [("", 1), ("{", 1), ('{\n"workers": 1,\n}', 3), ('{\n\n"workers" 1}', 3), ("[]", 1), ("7", 1),
               ('{"workers": 1,\n"workers": 2}', 2), ('{"workers": 01}', 1), ('{"workers": 1} x', 1)]


@pytest.mark.parametrize("program", ["posternd", "postern"])
def test_broken_json_with_its_line(home, program):
    for text, line in BROKEN_JSON:
        home.write("broken.json", text)
        said = one_line(home.lab.run(program, "-c", "broken.json", check=False), 2)
        assert said.startswith(f"{program}: broken.json:{line}: "), f"{text!r}: {said}"
    said = one_line(home.lab.run(program, "-c", "none.json", check=False), 2)
    assert said == f"{program}: none.json: No such file or directory"
    assert one_line(home.lab.run(program, "-c", ".", check=False), 2) == f"{program}: .: Is a directory"


AGENT = [
    ("colour", "red", "unknown key colour"),
    ("tls.insecure", True, "unknown key tls.insecure"),
    ("tunnels.0.colour", "red", "unknown key tunnels[0].colour"),
    ("server", "gw.example.com", 'server: "gw.example.com" is not HOST:PORT'),
    ("server", 7, "server: expected a string, got an integer"),
    ("server", "gw:0", "server: "),
    ("instance", "My Laptop", 'instance: "My Laptop" is not 1 to 64 of'),
    ("instance", "a\r\n\x1b[31m", "instance: "),
    ("token_file", "none", "token_file: "),
    ("token_file", None, "token_file: missing, and POSTERN_TOKEN is not set"),
    ("tls.ca", "none.crt", "tls.ca: "),
    ("tls.ca", "token", "CA "),
    ("tls.pin_sha256", "beef", 'tls.pin_sha256: "beef" is not a SHA-256'),
    ("tls.certificate", "gateway.crt", "tls.key: missing; certificate and key go together"),
    ("tls", {"ca": "ca.crt", "certificate": "gateway.crt", "key": "other.key"}, "not the key of the first certificate"),
    ("tunnels", "server", "tunnels: expected a list"),
    ("tunnels.0", 7, "tunnels[0]: expected an object"),
    ("tunnels.0.name", "SSH", 'tunnels[0].name: "SSH" is not 1 to 64 of'),
    ("tunnels.0.protocol", "sctp", 'tunnels[0].protocol: "sctp" is not known'),
    ("tunnels.0.idle_seconds", 60, "tunnels[0].idle_seconds: only for udp"),
    ("tunnels.0.target", "nowhere", 'tunnels[0].target: "nowhere" is neither'),
    ("tunnels.0.target", 65536, "tunnels[0].target: "),
    ("tunnels.0.port", 65536, "tunnels[0].port: 65536 is out of range 0..65535"),
    ("tunnels.0.strict_port", "yes", "tunnels[0].strict_port: expected true or false, got a string"),
    ("tunnels.0.description", "d" * 257, "tunnels[0].description: "),
]


def test_bad_agent_json(home):
    for path, value, says in AGENT:
        line = one_line(home.start_agent(put(home.agent, path, value)), 2)
        assert line.startswith("postern: agent.json: ") and says in line, f"{path}: {line}"
    twice = put(home.agent, "tunnels", home.agent["tunnels"] * 2)
    assert 'tunnels[1].name: "ssh" is the name of tunnels[0] too' in one_line(home.start_agent(twice), 2)


# What only a start finds out

def test_a_port_in_use(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = one_line(home.start(put(home.gateway, "control.listen", ["127.0.0.1:0", address])), 1)
    assert line == f"posternd: gateway.json: control.listen: cannot listen on {address}: in use"


@pytest.mark.parametrize("path,value,says", [
    ("control.listen", ["192.0.2.1:7841"], "control.listen: cannot listen on 192.0.2.1:7841: this machine has no such"),
    ("tunnels.address", ["127.0.0.1", "192.0.2.1"], "tunnels.address: cannot listen on 192.0.2.1: this machine has no"),
])
def test_an_address_of_another_machine(home, path, value, says):
    line = one_line(home.start(put(home.gateway, path, value)), 2)
    assert line.startswith(f"posternd: gateway.json: {says}")


def test_a_database_in_use(lab):
    gateway = lab.gateway()
    second = lab.run("posternd", "-c", gateway.config_file, "--log-level", "error", check=1)
    assert one_line(second, 1).endswith(f"gateway.json: database: another gateway is running on {gateway.database}")


def test_a_database_that_is_none(home):
    home.write("file", "x")
    assert "database: store" in one_line(home.start(put(home.gateway, "database", "file")), 2)
    assert "database: store" in one_line(home.start(put(home.gateway, "database", "no/such/folder")), 2)
    (home.folder / "db").mkdir()
    (home.folder / "db/data.mdb").write_bytes(b"x" * 8192)
    line = one_line(home.start(home.gateway), 1)
    assert line.startswith("posternd: gateway.json: database: store ")


def set_schema(folder, version):
    """Writes another schema version into a store, as a newer program would."""
    lmdb = ctypes.CDLL("liblmdb.so.0")

    class Value(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("data", ctypes.c_char_p)]

    def call(function, *arguments):
        assert getattr(lmdb, function)(*arguments) == 0, function
    environment, transaction, database = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint()
    number = version.to_bytes(8, "big")
    call("mdb_env_create", ctypes.byref(environment))
    call("mdb_env_set_maxdbs", environment, 32)
    call("mdb_env_open", environment, str(folder).encode(), 0, 0o600)
    call("mdb_txn_begin", environment, None, 0, ctypes.byref(transaction))
    call("mdb_dbi_open", transaction, b"meta", 0, ctypes.byref(database))
    key, value, old = Value(6, b"schema"), Value(8, number), Value()
    call("mdb_get", transaction, database, ctypes.byref(key), ctypes.byref(old))
    call("mdb_put", transaction, database, ctypes.byref(key), ctypes.byref(value), 0)
    call("mdb_txn_commit", transaction)
    lmdb.mdb_env_close(environment)


def test_a_database_of_a_newer_version(home):
    home.lab.run("posternctl", "--db", "db", "user", "add", "alice")
    set_schema(home.folder / "db", 99)
    line = one_line(home.start(home.gateway), 1)
    assert line.startswith("posternd: gateway.json: database: store ") and "newer version (schema 99" in line
    assert "newer version" in one_line(home.lab.run("posternctl", "--db", "db", "user", "list", check=False), 1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_what_the_gateway_may_not_read_or_write(home):
    """As another user, from a folder that it can reach."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-config-"))
    try:
        for name in ("gateway.crt", "gateway.key"):
            shutil.copy(home.folder / name, folder)
        (folder / "gateway.json").write_text(json.dumps(home.gateway))
        for path in (folder, folder / "gateway.crt", folder / "gateway.json"):
            path.chmod(0o755)

        def start():
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                       home.lab.build.program("posternd"), "-c", "gateway.json", "--log-level", "error"]
            return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
        (folder / "gateway.key").chmod(0o600)
        assert one_line(start(), 2) == "posternd: gateway.json: tls.key gateway.key: Permission denied"
        os.chown(folder / "gateway.key", NOBODY, NOBODY)
        line = one_line(start(), 1)
        assert line.startswith("posternd: gateway.json: database: store db: cannot be created: Permission denied")
        (folder / "db").mkdir(mode=0o755)
        line = one_line(start(), 1)
        assert line.startswith("posternd: gateway.json: database: store db: ") and "Permission denied" in line
        (folder / "gateway.json").chmod(0o600)
        assert one_line(start(), 2) == "posternd: gateway.json: Permission denied"
    finally:
        shutil.rmtree(folder)


# What is not served yet

def test_a_whole_gateway_json_of_the_contract(lab):
    gateway = lab.gateway(plaintext=True,
                          tunnels={"http_port": 80, "https_port": 443, "host_certificates": None,
                                   "unbound_hosts": "refuse"},
                          nsp={"enabled": True, "dialect": "1.2"},
                          anonymous=False,
                          limits={"udp_idle_seconds": 60, "http_head_seconds": 10, "http_idle_seconds": 75,
                                  "http_target_seconds": 60, "buffer_mib": 256})
    lines = gateway.events_of("gateway.unserved")
    assert len(lines) == 1
    assert lines[0]["what"].split(", ") == ["tunnels.http_port", "tunnels.https_port"]
    assert [e["what"] for e in gateway.events_of("gateway.listen")] == [
        "control", "reverse", "web", "plaintext control", "plaintext reverse", "plaintext web"]


# Usage

@pytest.mark.parametrize("arguments,says", [
    ([], "-c FILE is needed"), (["-c"], "-c"), (["--config"], "--config"), (["-c", "gateway.json", "extra"], "extra"),
    (["--bogus"], "--bogus"), (["-x"], "-x"), (["-c", "gateway.json", "--log", "xml"], "xml"),
    (["-c", "gateway.json", "--log-level", "loud"], "loud"), (["--check"], "-c FILE is needed"),
])
def test_bad_usage_of_posternd(home, arguments, says):
    home.write("gateway.json", home.gateway)
    line = one_line(home.lab.run("posternd", *arguments, check=False), 2)
    assert line.startswith("posternd: ") and says in line


@pytest.mark.parametrize("program", ["posternd", "postern", "posternctl"])
def test_help_fits_a_screen(lab, program):
    done = lab.run(program, "--help")
    lines = done.stdout.splitlines()
    assert not done.stderr and 5 < len(lines) <= 40 and max(map(len, lines)) <= 100
    assert "example" in done.stdout.lower() and f"{program} " in done.stdout.lower().partition("example")[2]
    version = lab.run(program, "--version").stdout
    assert version.startswith(f"{program} ") and version.count("\n") == 1

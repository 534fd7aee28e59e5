"""The contenders: bare loopback, ssh -R through an sshd of its own, Postern, and Postern with an NSP client in the
agent's place. Each leads to the same target.

A contender prepares its keys once in its own folder; start() gives it a `port` for visitors, stop() ends its programs.
"""
import getpass
import json
import os
import pathlib
import re
import shutil
import signal
import socket

from programs import BenchError, Program, descendants, run

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SSHD_START_TRIES = 5


class Contender:
    name = title = None
    good_ends = (0,)  # how its programs may end when they are stopped

    def __init__(self, folder, target_port):
        self.folder, self.target_port = folder / self.name, target_port
        self.folder.mkdir(mode=0o700)
        self.port = None
        self.udp_port = None  # where it carries datagrams too
        self.programs = []  # in the order of their start

    def start(self):
        """Starts what carries the visitors and waits until `port` answers."""

    def check(self):
        for program in self.programs:
            program.check()

    def sides(self):
        """The process ids of either side, whose memory is measured."""
        return {}

    def stop(self):
        """Returns what was wrong with the ends of the programs."""
        problems = []
        while self.programs:
            program = self.programs.pop()
            status = program.stop()
            if status not in self.good_ends:
                problems.append(f"{program.name} ended with {status}{program.tail()}")
        return problems

    def _program(self, name, argv):
        self.programs.append(Program(name, argv, self.folder))
        return self.programs[-1]


class Loopback(Contender):
    name, title = "loopback", "bare loopback"

    def start(self):
        self.port = self.udp_port = self.target_port


class Ssh(Contender):
    name, title = "ssh", "ssh -R"
    good_ends = (0, 255, -15)  # to be stopped is no success to them
    # A session that stays open as long as sshd's side of the connection.
    session_command = "exec tail -f --pid=$PPID /dev/null"

    def __init__(self, folder, target_port, ciphers=None, session=False):
        super().__init__(folder, target_port)
        self.ciphers, self.session = ciphers, session
        self.cipher = None  # what both sides agreed on
        self._sshd_path = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if not self._sshd_path or not shutil.which("ssh"):
            raise BenchError("OpenSSH is not installed (tools/packages.sh bench)")
        for key in ("host_key", "user_key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", self.folder / key])
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd insists on it as root

    def start(self):
        sshd, port = self._start_sshd()
        self._sshd_pid = sshd.pid
        host_key = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        if self.cipher is None:
            self.cipher = self._ask_cipher(port)
        forward = ["-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:0:127.0.0.1:{self.target_port}", "127.0.0.1"]
        what = [*forward, self.session_command] if self.session else ["-N", *forward]
        client = self._program("ssh", ["ssh", *self._client_options(port), *what])
        self._client_pid = client.pid
        self.port = int(client.wait_line(r"Allocated port (\d+) for remote forward")[1])

    def sides(self):
        return {"gateway": descendants(self._sshd_pid), "agent": descendants(self._client_pid)}

    def _start_sshd(self):
        for last_try in [False] * (SSHD_START_TRIES - 1) + [True]:
            port = free_port()
            self._write_config(port)
            sshd = self._program("sshd", [self._sshd_path, "-D", "-e", "-f", self.folder / "sshd_config"])
            try:
                sshd.wait_line(r"Server listening on 127\.0\.0\.1")
                return sshd, port
            except BenchError:
                if last_try or "Address already in use" not in sshd.tail():
                    raise
                self.programs.remove(sshd)

    def _write_config(self, port):
        (self.folder / "authorized_keys").write_text((self.folder / "user_key.pub").read_text())
        (self.folder / "sshd_config").write_text("\n".join([
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "PidFile none",
            "StrictModes no",  # the folder lies in a directory for temporary files
            "UsePAM " + ("no" if os.geteuid() == 0 else "yes"),  # without PAM only root can see that accounts are open
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "AllowTcpForwarding yes",
            "MaxSessions 64",
            ""]))

    def _client_options(self, port):
        options = ["-F", "none", "-p", str(port), "-l", getpass.getuser(), "-i", str(self.folder / "user_key")]
        settings = {"IdentitiesOnly": "yes", "IdentityAgent": "none", "BatchMode": "yes",
                    "StrictHostKeyChecking": "yes", "UserKnownHostsFile": str(self.folder / "known_hosts")}
        if self.ciphers:
            settings["Ciphers"] = self.ciphers
        for key, value in settings.items():
            options += ["-o", f"{key}={value}"]
        return options

    def _ask_cipher(self, port):
        asking = Program("ssh-v", ["ssh", "-v", *self._client_options(port), "-N", "127.0.0.1"], self.folder)
        try:
            return asking.wait_line(r"kex: client->server cipher: (\S+)")[1]
        finally:
            asking.stop()


class Gateway(Contender):
    """A gateway with a user whose token is in a file; how it is reached is for the subclasses."""
    settings = {}

    def __init__(self, folder, target_port, programs):
        super().__init__(folder, target_port)
        self._bin = programs
        run([PROJECT / "certs/make-certs.sh", "--out", self.folder / "certs", "--days", "2", "--ca-days", "3",
             "127.0.0.1"])
        self._write("gateway.json", {
            "control": {"listen": ["127.0.0.1:0"]},
            "tls": {"certificate": "certs/gateway.crt", "key": "certs/gateway.key"},
            # Between the ports of the end-to-end tests, which may run meanwhile, and those of outgoing connections.
            "tunnels": {"address": "127.0.0.1", "ports": "32000-32767"},
            **self.settings,
        })
        ctl = [self._bin / "posternctl", "-c", self.folder / "gateway.json"]
        run([*ctl, "user", "add", "bench"])
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(run([*ctl, "token", "create", "bench"]))

    def _start_gateway(self, *listeners):
        """Returns the ports of these listeners."""
        gateway = self._program("posternd", [self._bin / "posternd", "-c", "gateway.json"])
        gateway.wait_line(r"gateway\.ready:")
        return [gateway.wait_line(rf"gateway\.listen: .*what={name} .*port=(\d+)")[1] for name in listeners]

    def sides(self):
        gateway, agent = self.programs
        return {"gateway": [gateway.pid], "agent": [agent.pid]}

    def _write(self, name, value):
        (self.folder / name).write_text(json.dumps(value, indent=2))


class Postern(Gateway):
    name, title = "postern", "Postern"
    settings = {"nsp": {"enabled": False}}

    def start(self):
        [control_port] = self._start_gateway("control")
        self._write("agent.json", {
            "server": f"127.0.0.1:{control_port}",
            "token_file": "token",
            "tls": {"ca": "certs/ca.crt"},
            "tunnels": [{"name": name, "protocol": name, "target": f"127.0.0.1:{self.target_port}"}
                        for name in ("tcp", "udp")],
        })
        agent = self._program("postern", [self._bin / "postern", "-c", "agent.json"])
        self.port, self.udp_port = (int(agent.wait_line(rf"tunnel\.open: .*protocol={name} port=(\d+)")[1])
                                    for name in ("tcp", "udp"))


class Nsp(Gateway):
    """A gateway with an NSP client, which answers new connections itself and takes bulk to the target."""
    settings = {"reverse": {"listen": ["127.0.0.1:0"]}, "web": {"listen": ["127.0.0.1:0"]}}
    good_ends = (0, 1)  # 1: it counted an error, which is in its report

    def __init__(self, folder, target_port, programs, client, tls_version):
        self.name, self.title = f"nsp-{tls_version}", f"NSP, TLS {tls_version}"
        super().__init__(folder, target_port, programs)
        self._client, self._tls_version = client, tls_version
        self._reports = 0

    def start(self):
        control_port, reverse_port = self._start_gateway("control", "reverse")
        argv = [self._client, control_port, reverse_port, self.target_port, "certs/ca.crt", "token",
                "-t", self._tls_version]
        client = self._program("nsp_bench", argv)
        self.port = int(client.wait_line(r'"port":(\d+)')[1])
        self._reports = 0

    def report(self):
        """What the client counted since the last one."""
        client = self.programs[-1]
        self._reports += 1
        client.signal(signal.SIGUSR1)
        return json.loads(client.wait_line(rf'\{{"report":{self._reports},.*\}}')[0])


def free_port():
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]

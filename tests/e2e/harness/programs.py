"""The gateway and the agent with their configuration files, as the tests drive them."""
import copy
import json
import os
import pathlib
import signal
import subprocess

from .certs import PROJECT
from .ports import PortRange
from .process import Process, bad_lines, environment
from .timing import scaled


class Build:
    """One build of the programs: `name` is dev, tsan or release."""

    def __init__(self, name, folder):
        self.name, self.folder = name, pathlib.Path(folder)

    @classmethod
    def named(cls, name):
        return cls(name, os.environ.get("POSTERN_BIN") or PROJECT / "build" / name / "bin")

    def program(self, name):
        path = self.folder / name
        assert path.exists(), f"{path} is not built (cmake --preset {self.name} && cmake --build --preset {self.name})"
        return path

    def run(self, name, *arguments, check=True, input=None, env=None, cwd=None, timeout=30.0):
        """Runs a program to its end; returns the CompletedProcess (returncode, stdout, stderr).

        `check` is True for status 0, the status to expect, or False. A sanitizer's line fails the test.
        """
        command = [str(self.program(name)), *map(str, arguments)]
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(command, **stdin, capture_output=True, text=True, env=environment(**(env or {})),
                              timeout=scaled(timeout), cwd=cwd)
        what = f"{name} {' '.join(command[1:])}"
        said = f"\nstdout: {done.stdout}\nstderr: {done.stderr}"
        assert not bad_lines(done.stderr.splitlines()), f"{what}:{said}"
        wanted = 0 if check is True else check
        assert check is False or done.returncode == wanted, f"{what} ended with {done.returncode}, not {wanted}{said}"
        return done


def merge(base, changes):
    """`base` with `changes` put over it, objects by key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else copy.deepcopy(value)
    return result


def write_secret(path, text):
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def tcp(name, target, port=0, **more):
    """A tunnel of agent.json. `target` is a target of the tests, an address or a port of 127.0.0.1."""
    return {"name": name, "protocol": "tcp", "target": target_address(target), "port": port, **more}


def udp(name, target, port=0, **more):
    return {"name": name, "protocol": "udp", "target": target_address(target), "port": port, **more}


def http_tunnel(name, target, host, **more):
    return {"name": name, "protocol": "http", "target": target_address(target), "host": host, **more}


def tls_tunnel(name, target, host, **more):
    return {"name": name, "protocol": "tls", "target": target_address(target), "host": host, **more}


def target_address(target):
    if isinstance(target, int):
        return f"127.0.0.1:{target}"
    return target if isinstance(target, str) else target.address


class Gateway(Process):
    """posternd in a folder of its own. `port` is the control port, `reverse_port` and `web_port` are the NSP clients',
    `ports` the tunnels' range. With `plaintext` NSP clients are served without TLS too: `plain_port`,
    `plain_reverse_port`, `plain_web_port`.
    """

    def __init__(self, build, certs, folder, name="gateway", ports=18, log_level="info", plaintext=False, **overrides):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        argv = [build.program("posternd"), "-c", "gateway.json", "--log", "json", "--log-level", log_level]
        # The gateway's own ports come out of the locked range too: they stay the same across restarts, and no program
        # can take them meanwhile as one could an ephemeral port.
        own = 6 if plaintext else 3
        self._range = PortRange(own + ports)
        self.port, self.reverse_port, self.web_port = (self._range.first + at for at in range(3))
        self.ports = range(self._range.first + own, self._range.last + 1)
        self.build, self.certs, self.secrets = build, certs, []
        if plaintext:
            self.plain_port, self.plain_reverse_port, self.plain_web_port = (self._range.first + at for at in (3, 4, 5))
            overrides = merge({"nsp": {"plaintext": {"control": f"127.0.0.1:{self.plain_port}",
                                                     "reverse": f"127.0.0.1:{self.plain_reverse_port}",
                                                     "web": f"127.0.0.1:{self.plain_web_port}"}}}, overrides)
        self.config = merge({
            "control": {"listen": [f"127.0.0.1:{self.port}"]},
            "reverse": {"listen": [f"127.0.0.1:{self.reverse_port}"]},
            "web": {"listen": [f"127.0.0.1:{self.web_port}"]},
            "tls": {"certificate": str(certs.crt), "key": str(certs.key)},
            "database": "db",
            "tunnels": {"address": "127.0.0.1", "ports": f"{self.ports[0]}-{self.ports[-1]}"},
            "workers": 2,
        }, overrides)
        self.config_file = folder / "gateway.json"
        super().__init__(name, argv, folder)
        self.write_config()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def database(self):
        return self.cwd / "db"

    def write_config(self, **changes):
        self.config = merge(self.config, changes)
        self.config_file.write_text(json.dumps(self.config, indent=2))

    def start(self, ready=True):
        super().start()
        if ready:
            self.wait_event("gateway.ready", timeout=20)
        return self

    def restart(self):
        self.stop()
        return self.start()

    def reload(self, **changes):
        """Writes the changed configuration and asks for a reload through the admin socket."""
        self.write_config(**changes)
        return self.ctl("reload")

    def sighup(self):
        self.signal(signal.SIGHUP)

    # Administration

    def ctl(self, *arguments, check=True, json=False, input=None, timeout=30.0):
        """Runs posternctl on this gateway's configuration. `check` is True for status 0, a status, or False.

        Returns the parsed output with json=True, else the CompletedProcess (stdout, stderr, returncode).
        """
        done = self.build.run("posternctl", "-c", self.config_file, *arguments, *(["--json"] if json else []),
                              check=check, input=input, timeout=timeout, cwd=self.cwd)
        return parse_json(done.stdout) if json and check is True else done

    def add_user(self, name):
        """The new user's id."""
        return int(self.ctl("user", "add", name).stdout)

    def create_token(self, user, expires=None, label=None, enrol=None):
        """A new token, or the enrolment line when `enrol` is True or HOST:PORT."""
        options = []
        for option, value in (("--expires", expires), ("--label", label),
                              ("--enrol", self.address if enrol is True else enrol)):
            options += [option, value] if value else []
        line = self.ctl("token", "create", user, *options).stdout
        assert line.endswith("\n") and "\n" not in line[:-1], f"not one line: {line!r}"
        self.secrets.append(line.strip().rpartition("#")[2])
        return line.strip()

    def token_for(self, user, **options):
        """Adds the user and returns a token."""
        self.add_user(user)
        return self.create_token(user, **options)

    def tokens(self, user):
        return self.ctl("token", "list", user, json=True)

    def sessions(self):
        return self.ctl("session", "list", json=True)

    # The end of a test

    def release(self):
        self._range.release()


def parse_json(text):
    try:
        return json.loads(text)
    except ValueError as error:
        raise AssertionError(f"--json printed no JSON ({error}): {text!r}") from None


class Agent(Process):
    """postern with an agent.json, or with `arguments` in one line."""

    def __init__(self, build, gateway, folder, token=None, tunnels=None, name="agent", instance=None, server=None,
                 arguments=None, enrol=None, env=None, log_level="info", **overrides):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        self.gateway = gateway
        self.token_file = folder / "token"
        if token is not None:
            self.set_token(token)
        if enrol is not None:
            write_secret(folder / "enrol", enrol)
        command = [build.program("postern")]
        if arguments is None:
            self.config_file = folder / "agent.json"
            self.config = merge({
                "server": server or gateway.address,
                "token_file": "token",
                "tls": {"ca": str(gateway.certs.ca)},
                "tunnels": tunnels or [],
            }, overrides)
            if instance is not None:
                self.config["instance"] = instance
            self.write_config()
            command += ["-c", "agent.json"]
        else:
            assert tunnels is None and not overrides, "one-line agents have no agent.json"
            command += arguments
            if enrol is not None:
                command += ["--enrol-file", "enrol"]
            else:
                command += ["--server", server or gateway.address, "--ca", gateway.certs.ca]
            command += ["--token-file", "token"] if token is not None else []
            command += ["--instance", instance] if instance is not None else []
        super().__init__(name, [*command, "--log", "json", "--log-level", log_level], folder, env)

    def set_token(self, token):
        write_secret(self.token_file, token)

    def write_config(self, **changes):
        self.config = merge(self.config, changes)
        self.config_file.write_text(json.dumps(self.config, indent=2))

    def reload(self, **changes):
        """Writes the changed agent.json and sends SIGHUP."""
        self.write_config(**changes)
        self.signal(signal.SIGHUP)

    def start(self, connected=False):
        super().start()
        if connected:
            self.wait_event("agent.connected", timeout=20)
        return self

    def restart(self):
        if self.running:
            self.stop()
        return self.start()

    def port_of(self, tunnel, timeout=20.0, since=None):
        """Waits until the tunnel is usable and returns its public port."""
        return self.wait_event("tunnel.open", timeout=timeout, since=since, tunnel=tunnel)["port"]

"""All that one test started, and its orderly end."""
from .datagrams import UdpEcho, UdpTarget, udp_visitor
from .linkproxy import LinkProxy
from .nsp_client import NspClient
from .programs import Agent, Gateway
from .targets import Blackhole, Discard, Echo, RefusedPort, Reset, Sink, Source
from .visitors import connect


class Lab:
    """Starts gateways, agents, targets and visitors for one test and ends them all in finish()."""

    def __init__(self, build, certs, folder):
        self.build, self.certs, self.folder = build, certs, folder
        self.gateways, self.agents, self.nsp_clients, self._targets, self._visitors = [], [], [], [], []

    def gateway(self, start=True, certs=None, **options):
        """A gateway, ready for agents. `options` are Gateway's; the rest overrides gateway.json."""
        name = options.pop("name", f"gateway{len(self.gateways) + 1}")
        gateway = Gateway(self.build, certs or self.certs, self.folder / name, name=name, **options)
        self.gateways.append(gateway)
        return gateway.start() if start else gateway

    def agent(self, gateway, token=None, tunnels=None, start=True, connected=False, **options):
        """An agent; `options` are Agent's; the rest overrides agent.json."""
        name = options.pop("name", f"agent{len(self.agents) + 1}")
        agent = Agent(self.build, gateway, self.folder / name, token, tunnels, name=name, **options)
        self.agents.append(agent)
        return agent.start(connected) if start else agent

    def nsp_client(self, gateway, *arguments, login=True, **options):
        """A scripted NSP client, logged in with idle reverse connections unless login=False; NspClient's arguments."""
        client = NspClient(gateway, *arguments, **options)
        self.nsp_clients.append(client)
        return client.login() if login else client

    def run(self, program, *arguments, **options):
        """Runs a program of the build to its end, in the test's folder; Build.run tells the options."""
        return self.build.run(program, *arguments, **{"cwd": self.folder} | options)

    def echo(self, **options):
        return self._target(Echo(**options))

    def sink(self, **options):
        return self._target(Sink(**options))

    def discard(self, **options):
        return self._target(Discard(**options))

    def source(self, *arguments, **options):
        return self._target(Source(*arguments, **options))

    def reset_target(self, **options):
        return self._target(Reset(**options))

    def refused_port(self):
        return self._target(RefusedPort())

    def blackhole(self):
        return self._target(Blackhole())

    def udp_echo(self, **options):
        return self._target(UdpEcho(**options))

    def udp_target(self, **options):
        return self._target(UdpTarget(**options))

    def udp_visit(self, port, **options):
        """A visitor of a UDP tunnel, closed at the end of the test."""
        sock = udp_visitor(port, **options)
        self._visitors.append(sock)
        return sock

    def link_proxy(self, gateway):
        """A proxy before the gateway's control port; give its `address` to an agent as `server`."""
        return self._target(LinkProxy(gateway.port))

    def visit(self, port, **options):
        """A visitor's socket, closed at the end of the test."""
        sock = connect(port, **options)
        self._visitors.append(sock)
        return sock

    def visits(self, port, count, **options):
        return [self.visit(port, **options) for _ in range(count)]

    def add_target(self, target):
        """Takes a target of the test's own making; closes it at the end."""
        return self._target(target)

    def programs(self):
        return [*self.agents, *self.gateways]

    def finish(self):
        """Stops everything; returns what was wrong: bad ends, sanitizers' lines, secrets in logs."""
        for sock in self._visitors:
            sock.close()
        for client in self.nsp_clients:
            client.close()
        problems = [f"NSP client {number}: {problem}" for number, client in enumerate(self.nsp_clients, 1)
                    for problem in client.problems]
        for group in (self.agents, self.gateways):
            for program in group:
                program.ask_to_stop()
            for program in group:
                problems += program.finish()
        for closable in self._targets:
            closable.close()
        for gateway in self.gateways:
            gateway.release()
        for program in self.programs():
            problems += program.problems()
        return problems + self._leaked_secrets()

    def kill_what_is_left(self):
        for program in self.programs():
            program.end_now()

    def _leaked_secrets(self):
        secrets = {secret for gateway in self.gateways for secret in gateway.secrets}
        return [f"{program.name} logged a token: {line}" for program in self.programs()
                for line in program.lines for secret in secrets if secret in line]

    def _target(self, target):
        self._targets.append(target)
        return target

"""NSP clients of one user that take each other's place, clients that die, and the order in which all of it happens."""
import pytest

from harness import echo_all, how_closed, port_is_free, tcp, wait_all_closed, wait_until
from harness.nsp_wire import (ERROR_OTHER, FORCE_CLOSE, NEW_APPS, App, close_client, heartbeat, parse_answer,
                              read_control, read_to_end)
from nsp_scene import Scene, expect_no_event, expect_unharmed, in_parallel

GO_AWAY = bytes([FORCE_CLOSE]) + bytes(9)


class Rival:
    """One of two runs of the same user, with a reverse connection for each app and nothing that runs by itself."""

    def __init__(self, scene, apps=1):
        self.scene, self.dialer, self.apps, self.socks = scene, scene.dialer(), apps, []

    def login(self):
        self.id, answer = parse_answer(self.dialer.login(self.scene.request(NEW_APPS, [App()] * self.apps)))
        self.socks = [self.dialer.attach(self.scene.opening(), self.id, app) for app, _ in answer]
        return [port for _, port in answer]

    def expect_go_away(self):
        """06 comes on every idle connection; then the run is silent for good, having said 04."""
        for sock in self.socks:
            assert read_control(sock, 20) == GO_AWAY
            assert read_to_end(sock, allow_reset=True) == b""
            sock.close()
        self.socks = []
        assert self.dialer.ask(close_client(self.id)) == b""


def fight(scene, turns):
    rivals = [Rival(scene, apps=2), Rival(scene, apps=2)]
    ports = rivals[0].login()
    for turn in range(turns):
        older, newer = rivals[turn % 2], rivals[1 - turn % 2]
        assert newer.login() == ports
        older.expect_go_away()
    last = rivals[turns % 2]
    assert last.dialer.ask(heartbeat(last.id)) == b"\1"
    sessions = scene.gateway.sessions()
    assert len(sessions) == 1 and sessions[0]["tunnels"] == 2
    for sock, port in zip(last.socks, ports):
        visitor = scene.lab.visit(port)
        message = read_control(sock, 10)
        while message[0] == 3:
            message = read_control(sock, 10)
        visitor.sendall(b"the right one")
        assert message[0] == 1 and sock.recv(100) == b"the right one"
        visitor.close()
        sock.close()
    last.dialer.ask(close_client(last.id))
    scene.gateway.wait_event("session.close", user="alice", count=turns + 1)
    wait_until(lambda: all(map(port_is_free, ports)), 2, "the ports are free")


@pytest.mark.tsan
def test_back_and_forth(lab):
    scene = Scene(lab)
    with scene.no_descriptor_lost():
        fight(scene, 30)


@pytest.mark.release
@pytest.mark.slow
def test_back_and_forth_a_thousand_times(lab):
    scene = Scene(lab)
    with scene.no_descriptor_lost():
        fight(scene, 1000)


@pytest.mark.tsan
def test_the_newer_client_has_the_ports_and_the_older_stops_for_good(lab):
    scene = Scene(lab)
    apps = [(scene.echo, App()), (scene.echo, App(scene.gateway.ports[9]))]
    older = scene.client(apps=apps)
    crowd = [lab.visit(port) for port in older.ports for _ in range(5)]
    echo_all(crowd, b"hello")
    newer = scene.client(apps=apps)
    assert set(wait_all_closed(crowd, 1.0)) == {"reset"}
    older.wait_event("stopped")
    assert older.wait_event("force_close")["message"] == GO_AWAY
    assert newer.ports == older.ports and newer.client_id == older.client_id
    expect_unharmed(newer)
    scene.gateway.wait_event("session.close", user="alice", reason="takeover")
    assert len(scene.gateway.sessions()) == 1


@pytest.mark.tsan
def test_the_displaced_client_harms_nobody(lab):
    """Neither a newer one with its visitors, nor one that takes long to open its reverse connections."""
    scene = Scene(lab, users=("alice", "tess"))
    olders = {user: scene.client(user) for user in scene.ids}
    visitor = lab.visit(olders["alice"].port)
    echo_all([visitor], b"hello")
    newers = {user: scene.client(user, login=False) for user in scene.ids}
    newers["alice"].login()
    newers["tess"].login(reverse=False)
    assert how_closed(visitor) == "reset"
    visitor = lab.visit(newers["alice"].port)
    echo_all([visitor], b"hello")
    for older in olders.values():
        older.wait_event("stopped")
        for _ in range(3):
            older.close_client()
    olders["alice"].disconnect(olders["alice"].events_of("transfer")[0]["id"])
    expect_no_event(scene.gateway, "session.close", 2.5)
    echo_all([visitor], b"hello")
    newers["tess"].open_reverse()
    for newer in newers.values():
        expect_unharmed(newer)


def test_takeover_while_visitors_wait(lab):
    scene = Scene(lab)
    older = scene.client(login=False)
    older.login(reverse=False)
    crowd = lab.visits(older.port, 10)
    scene.gateway.wait_event("visitor.open", count=10)
    newer = scene.client()
    assert set(wait_all_closed(crowd, 2.0)) == {"reset"}
    assert newer.port == older.port
    expect_unharmed(newer, 10)


def test_a_crowd_of_logins_leaves_one(lab):
    scene = Scene(lab)
    with scene.no_descriptor_lost():
        dialers = [scene.dialer() for _ in range(12)]
        answers = in_parallel(lambda dialer: dialer.login(scene.request(NEW_APPS)), dialers, 12)
        # Who is displaced before he was answered hears 00, and comes again if he likes.
        ports = {parse_answer(answer)[1][0][1] for answer in answers if answer != ERROR_OTHER}
        assert len(scene.gateway.sessions()) == 1 and len(ports) == 1
        client = scene.client()
        assert {client.port} == ports
        expect_unharmed(client)
        scene.gateway.ctl("session", "kick", "alice")
        wait_until(lambda: port_is_free(client.port), 2)
        client.drop_all()


def test_other_apps_than_before(lab):
    """A second request of a live client replaces its session: the apps are those of the new request."""
    scene = Scene(lab)
    client = scene.client(apps=[scene.echo, scene.echo])
    first, second = client.ports
    lone = scene.client(apps=[(scene.echo, App(second))])
    assert lone.answer == [(1, second)]
    wait_until(lambda: port_is_free(first), 2, "the port that nobody asked for is free")
    expect_unharmed(lone)
    assert scene.gateway.sessions()[0]["tunnels"] == 1


# Beside the trunk

@pytest.mark.tsan
def test_an_agent_of_the_same_user_is_another_instance(lab):
    scene = Scene(lab)
    client = scene.client()
    agent = lab.agent(scene.gateway, scene.tokens["alice"], [tcp("echo", scene.echo)])
    visitors = [lab.visit(agent.port_of("echo")), lab.visit(client.port)]
    echo_all(visitors, b"both")
    assert {(s["instance"], s["protocol"]) for s in scene.gateway.sessions()} == {("default", "trunk"), ("nsp", "nsp")}
    expect_unharmed(client)


def test_an_agent_and_a_client_of_one_instance_take_turns(lab):
    scene = Scene(lab)
    agent = lab.agent(scene.gateway, scene.tokens["alice"], [tcp("echo", scene.echo)], instance="nsp")
    visitor = lab.visit(agent.port_of("echo"))
    echo_all([visitor], b"hello")
    client = scene.client()
    assert how_closed(visitor) == "reset"
    agent.expect_exit(4)
    expect_unharmed(client)
    visitor = lab.visit(client.port)
    echo_all([visitor], b"hello")
    agent.start()
    port = agent.port_of("echo")
    client.wait_event("stopped")
    assert how_closed(visitor) == "reset"
    expect_no_event(scene.gateway, "session.close", 2.5)
    echo_all([lab.visit(port)], b"the agent's")
    assert [s["protocol"] for s in scene.gateway.sessions()] == ["trunk"]


# A gateway that goes and comes

def test_the_same_ports_after_a_restart_of_the_gateway(lab):
    scene = Scene(lab)
    client = scene.client(apps=[scene.echo, scene.echo])
    ports = client.ports
    scene.gateway.restart()
    client.wait_event("session_lost")
    client.login()
    assert client.ports == ports
    client.events.clear()
    expect_unharmed(client)


def test_a_reload_disturbs_nobody(lab):
    scene = Scene(lab)
    client = scene.client()
    visitor = lab.visit(client.port)
    for level in ("debug", "info"):
        scene.gateway.reload(log={"level": level})
        echo_all([visitor], b"still here")
        expect_unharmed(client)
    assert client.dialer.ask(heartbeat(client.client_id)) == b"\1"
    # Proof outlives the reload, for the ticket keys do: from another address nothing else counts.
    assert client.dialer.elsewhere("127.0.0.2").ask(heartbeat(client.client_id)) == b"\1"

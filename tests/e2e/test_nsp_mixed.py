"""NSP clients with and without TLS and agents of the trunk protocol, of different users, on one gateway at once."""
import threading

import pytest

from harness import abort, echo_all, how_closed, random_payload, recv_exact, tcp, wait_all_closed, wait_until
from nsp_scene import Scene, expect_unharmed

USERS = ("agnes", "tess", "paul")


class Company:
    """Agnes by the trunk, Tess by NSP inside TLS, Paul by NSP in plaintext."""

    def __init__(self, lab):
        self.lab, self.scene = lab, Scene(lab, users=USERS, plaintext=True)
        self.gateway = self.scene.gateway
        self.agnes = lab.agent(self.gateway, self.scene.tokens["agnes"], [tcp("echo", self.scene.echo)])
        self.tess, self.paul = self.scene.client("tess"), self.scene.client("paul", plaintext=True)
        self.ports = {"agnes": self.agnes.port_of("echo"), "tess": self.tess.port, "paul": self.paul.port}

    def crowd(self, each=10):
        return {user: self.lab.visits(port, each) for user, port in self.ports.items()}


@pytest.mark.tsan
def test_all_at_once(lab):
    company = Company(lab)
    crowds = company.crowd()
    everybody = [visitor for crowd in crowds.values() for visitor in crowd]
    echo_all(everybody, random_payload(200_000), timeout=60)
    listed = {s["user"]: s for s in company.gateway.sessions()}
    assert {user: s["protocol"] for user, s in listed.items()} == {"agnes": "trunk", "tess": "nsp", "paul": "nsp"}
    assert {user: s["instance"] for user, s in listed.items()} == {"agnes": "default", "tess": "nsp", "paul": "nsp"}
    assert all(s["visitors"] == 10 and s["tunnels"] == 1 and s["bytes_in"] == 2_000_000 == s["bytes_out"]
               for s in listed.values())
    for user, port in company.ports.items():
        seen = company.gateway.events_of("visitor.open", user=user)
        assert len(seen) == 10 and {event["port"] for event in seen} == {port}
    expect_unharmed(company.tess)
    expect_unharmed(company.paul)


@pytest.mark.tsan
@pytest.mark.parametrize("gone", USERS)
def test_a_ban_of_one_is_nothing_to_the_others(lab, gone):
    company = Company(lab)
    crowds = company.crowd()
    others = [visitor for user, crowd in crowds.items() if user != gone for visitor in crowd]
    echo_all([*others, *crowds[gone]], b"hello")
    company.gateway.ctl("user", "ban", gone)
    assert set(wait_all_closed(crowds[gone], 1.0)) == {"reset"}
    if gone == "agnes":
        company.agnes.expect_exit(3)
    echo_all(others, random_payload(50_000))
    for client in {"tess": company.tess, "paul": company.paul}.items():
        if client[0] != gone:
            expect_unharmed(client[1])


def test_a_hundred_visitors_of_a_client_without_connections(lab):
    """Paul's client has forgotten how to connect; his visitors wait, and nobody else's."""
    company = Company(lab)
    company.paul.drop_idle()
    waiting = lab.visits(company.ports["paul"], 100)
    for visitor in waiting[:20]:
        visitor.sendall(bytes(100_000))
    company.gateway.wait_event("visitor.open", user="paul", count=100)
    served = [visitor for user in ("agnes", "tess") for visitor in lab.visits(company.ports[user], 10)]
    echo_all(served, random_payload(100_000))
    for visitor in waiting[20:]:
        abort(visitor)
    company.gateway.wait_event("visitor.close", user="paul", count=80)
    assert company.paul.heartbeat() and company.tess.heartbeat()
    company.paul.open_reverse()
    for visitor in waiting[:20]:
        assert recv_exact(visitor, 100_000) == bytes(100_000)
    assert not company.gateway.events_of("session.close")
    expect_unharmed(company.tess)
    expect_unharmed(company.paul)


@pytest.mark.tsan
def test_while_others_come_and_go(lab):
    """Logins, takeovers and ends of two users; the third one's visitor talks on."""
    company = Company(lab)
    talker, payload = lab.visit(company.ports["agnes"]), random_payload(20_000)
    over, failures = threading.Event(), []

    def talk():
        try:
            while not over.is_set():
                talker.sendall(payload)
                assert recv_exact(talker, len(payload)) == payload
        except Exception as failure:  # shown below
            failures.append(failure)
    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        for _ in range(5):
            for user, plaintext in (("tess", False), ("paul", True)):
                newer = company.scene.client(user, plaintext=plaintext)
                assert newer.port == company.ports[user]
                expect_unharmed(newer)
                visitor = lab.visit(newer.port)
                echo_all([visitor], b"hello")
                newer.drop_all(reset=True)
                assert how_closed(visitor) == "reset"
    finally:
        over.set()
        thread.join(10)
    assert not failures, failures
    wait_until(lambda: len(company.gateway.sessions()) <= 3)
    assert not company.gateway.events_of("session.close", user="agnes")

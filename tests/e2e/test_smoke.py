"""The first end-to-end test: one gateway, one user, one agent, one tunnel."""
import pytest

from harness import random_payload, round_trip, tcp


@pytest.mark.tsan
def test_round_trip_through_a_tunnel(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    echo = lab.echo()
    agent = lab.agent(gateway, token, [tcp("echo", echo)])
    port = agent.port_of("echo")
    assert port in gateway.ports

    payload = random_payload(1 << 20)
    assert round_trip(port, payload) == payload

    gateway.wait_event("session.open", user="alice", protocol="trunk")
    gateway.wait_event("tunnel.open", user="alice", tunnel="echo", port=port)
    opened = gateway.wait_event("visitor.open", user="alice", tunnel="echo", port=port)
    closed = gateway.wait_event("visitor.close", user="alice", tunnel="echo", peer=opened["peer"])
    assert sorted([closed["bytes_in"], closed["bytes_out"]]) == [len(payload)] * 2
    agent.stop()
    gateway.wait_event("session.close", user="alice")
    gateway.stop()


@pytest.mark.parametrize("program", ["posternd", "postern", "posternctl"])
def test_a_program_says_its_version(lab, program):
    done = lab.run(program, "--version")
    assert len(done.stdout.splitlines()) == 1 and not done.stderr

"""What NSP clients and their visitors are given up for, and when: one test, for the waits run side by side."""
import time

import pytest

from harness import port_is_free, scaled, wait_all_closed, wait_until
from nsp_scene import Pulse, Scene, expect_unharmed

VISITOR_WAITS, GONE, STARVED, SILENT = 30, 10, 60, 90


@pytest.mark.slow
def test_the_long_waits(lab):
    scene = Scene(lab, users=("lively", "dead", "crowded", "starved", "silent"), limits={"dead_seconds": 20})
    gateway = scene.gateway
    clients = {user: scene.client(user, login=False) for user in scene.ids}
    pulses = {user: Pulse(clients[user].login()) for user in ("lively", "crowded", "starved")}
    began = time.monotonic()
    clients["dead"].login().drop_all(reset=True)
    clients["silent"].login()
    clients["crowded"].drop_idle()
    clients["starved"].drop_idle()
    crowd = lab.visits(clients["crowded"].port, 100)

    gone_after = closed_after(gateway, "dead", began)
    assert GONE - 1 <= gone_after < 15 + scaled(2), gone_after
    assert set(wait_all_closed(crowd, VISITOR_WAITS + 5)) == {"reset"}
    assert VISITOR_WAITS - 1 <= time.monotonic() - began < VISITOR_WAITS + scaled(5)
    gateway.wait_event("visitor.close", user="crowded", count=100)
    clients["crowded"].open_reverse()
    expect_unharmed(clients["crowded"], 10)
    expect_unharmed(clients["lively"], 10)
    assert all(pulses["crowded"].acks) and all(pulses["lively"].acks)

    # It is bounced: the next heartbeat is not acknowledged, and the real client logs in again.
    starved_after = closed_after(gateway, "starved", began)
    assert STARVED - 1 <= starved_after < STARVED + 30, starved_after
    wait_until(lambda: pulses["starved"].acks[-1] is False, 15, "its heartbeat is not acknowledged")
    clients["starved"].login()
    expect_unharmed(clients["starved"])

    silent_after = closed_after(gateway, "silent", began)
    assert SILENT - 1 <= silent_after < SILENT + 20, silent_after
    assert clients["silent"].wait_event("session_lost") and not clients["silent"].heartbeat()
    assert port_is_free(clients["silent"].port)
    for pulse in pulses.values():
        pulse.stop()
    assert all(pulses["lively"].acks) and len(pulses["lively"].acks) > SILENT // 8
    expect_unharmed(clients["lively"])
    assert {event["user"] for event in gateway.events_of("session.close")} == {"dead", "starved", "silent"}


def closed_after(gateway, user, began):
    gateway.wait_event("session.close", user=user, timeout=100)
    return time.monotonic() - began

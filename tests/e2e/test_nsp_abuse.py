"""NSP clients that ask for too much, go on when their time is over, or try what belongs to others."""
import contextlib
import threading

import pytest

from harness import echo_all, open_many, wait_until
from harness.visitors import connect
from harness.nsp_wire import (AUTH_OK, DIALECTS, ERROR_OTHER, NEW_APPS, App, heartbeat, ids, parse_answer, read_to_end)
from nsp_scene import Scene, expect_no_event, expect_unharmed


@pytest.mark.tsan
def test_a_displaced_client_that_was_busy_is_told(lab):
    """With no idle connection at that moment it hears of it on the next one, which serves nobody."""
    scene = Scene(lab)
    older = scene.client()
    over = threading.Event()

    def visit():
        while not over.is_set():
            with contextlib.suppress(OSError), connect(older.port) as sock:
                sock.settimeout(2)
                sock.sendall(b"x")
                sock.recv(1)

    crowd = [threading.Thread(target=visit) for _ in range(4)]
    for thread in crowd:
        thread.start()
    try:
        older.wait_event("tunnel", count=8)
        newer = scene.client(source="127.0.0.2")
        older.wait_event("force_close")
    finally:
        over.set()
        for thread in crowd:
            thread.join()
    mark = older.mark()
    for visitor in open_many(newer.port, 10):
        echo_all([visitor], b"whose?")
        visitor.close()
    assert older.events_of("tunnel", since=mark) == []
    expect_unharmed(newer)


def test_a_ban_does_not_wait_behind_heartbeats(lab):
    scene = Scene(lab, users=("mallory",), plaintext=True, workers=1)
    dialer = scene.dialer(plaintext=True)
    client_id, _ = parse_answer(dialer.login(scene.request(NEW_APPS, user="mallory")))
    idle = [dialer.attach(scene.opening("mallory"), client_id, 1) for _ in range(900)]
    for _ in range(1500):
        with dialer.control() as sock:
            sock.sendall(heartbeat(client_id))
    scene.gateway.ctl("user", "ban", "mallory")
    scene.gateway.wait_event("session.close", timeout=2, user="mallory", reason="banned")
    for sock in idle:
        sock.close()


def test_plaintext_gets_nobody_into_a_session_that_came_by_tls(lab):
    scene = Scene(lab, plaintext=True, anonymous=True)
    victim = lab.nsp_client(scene.gateway, "notoken", [scene.echo])
    stranger, opening = scene.dialer(plaintext=True), scene.wire.opening("notoken")
    with stranger.reverse() as sock:
        sock.sendall(opening + ids(victim.client_id, 1))
        assert read_to_end(sock, allow_reset=True) == AUTH_OK
    own, _ = parse_answer(stranger.login(scene.wire.request(NEW_APPS, "notoken", [App()], victim.client_id)))
    assert own != victim.client_id
    expect_unharmed(victim)


def test_a_refused_request_makes_no_user(lab):
    scene = Scene(lab, anonymous=True)
    dialer = scene.dialer()
    assert dialer.ask(scene.wire.request(NEW_APPS, "notoken", [App()] * 5)) == ERROR_OTHER
    assert dialer.ask(scene.wire.request(NEW_APPS, "notoken", [App(protocol=4)])) == ERROR_OTHER
    assert [user["name"] for user in scene.gateway.ctl("user", "list", json=True)] == ["alice"]


def test_adding_beyond_the_limit_leaves_what_is_there(lab):
    scene = Scene(lab, dialect="0.4", anonymous=True)
    dialer = scene.dialer()
    client_id, apps = parse_answer(dialer.login(scene.wire.request(NEW_APPS, None, [App()] * 3)))
    more = scene.wire.request(NEW_APPS, None, [App()] * 2, client_id=client_id)
    assert dialer.ask(more) == ERROR_OTHER
    expect_no_event(scene.gateway, "session.close", 1)
    assert dialer.ask(heartbeat(client_id)) == b"\1"
    one = scene.wire.request(NEW_APPS, None, [App()], client_id=client_id)
    assert [app for app, _ in parse_answer(dialer.login(one))[1]] == [4]


def test_a_reload_does_not_change_the_dialect(lab):
    scene = Scene(lab)
    client = scene.client()
    mark = scene.gateway.mark()
    scene.gateway.reload(nsp={"dialect": "0.8", "enabled": False})
    assert scene.gateway.wait_event("gateway.reload", since=mark, level="warn")["key"].startswith("nsp.")
    assert client.heartbeat()
    assert scene.dialer().ask(DIALECTS["0.8"].request(NEW_APPS, scene.tokens["alice"], [App()]), fin=True) == b""
    expect_unharmed(scene.client())

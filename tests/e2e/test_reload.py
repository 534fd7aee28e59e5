"""A gateway that reads its configuration anew, mutual TLS, and the log that nobody reads."""
import shutil
import ssl
import subprocess
import time

import pytest

from harness import (connect, echo_all, how_closed, port_is_free, round_trip, scaled, tcp, wait_until)
from harness.certs import make


def served_certificate(gateway, certs, **versions):
    """What the control port shows to a client."""
    context = certs.client_context()
    for name, version in versions.items():
        setattr(context, name, version)
    with context.wrap_socket(connect(gateway.port), server_hostname="localhost") as tls:
        return tls.getpeercert(binary_form=True)


@pytest.fixture
def world(lab, certs, tmp_path):
    """A gateway with copies of the certificates, an agent, a visitor."""
    class World:
        folder = tmp_path / "served"
        folder.mkdir()
        for name in ("ca.crt", "ca.key", "gateway.crt", "gateway.key"):
            shutil.copy(certs.ca.parent / name, folder / name)
        gateway = lab.gateway(tls={"certificate": str(folder / "gateway.crt"), "key": str(folder / "gateway.key")})
        echo = lab.echo()
        token = gateway.token_for("alice")
        agent = lab.agent(gateway, token, [tcp("echo", echo)])
        port = agent.port_of("echo")
        visitor = lab.visit(port)

        def renew(self, *options):
            make(self.folder, *options, "localhost", "127.0.0.1", "::1")

        def nothing_was_dropped(self):
            echo_all([self.visitor], b"still here")
            assert not self.gateway.events_of("session.close") and not self.gateway.events_of("link.close")
            assert not self.gateway.events_of("visitor.close", port=self.port)
    echo_all([World.visitor], b"here")
    return World()


# Reload

@pytest.mark.parametrize("how", ["signal", "command"])
def test_a_renewed_certificate_is_served_and_drops_nobody(lab, world, certs, how):
    before = served_certificate(world.gateway, certs)
    world.renew()
    mark = world.gateway.mark()
    if how == "signal":
        world.gateway.sighup()
    else:
        world.gateway.ctl("reload")
    world.gateway.wait_event("gateway.reload", since=mark, level="info")
    wait_until(lambda: served_certificate(world.gateway, certs) != before)
    assert not world.gateway.events_of("gateway.key_changed")  # the key is the same, and pins hold
    world.nothing_was_dropped()
    newcomer = lab.agent(world.gateway, world.token, [tcp("echo", world.echo)], instance="new")
    assert round_trip(newcomer.port_of("echo"), b"new") == b"new"
    world.nothing_was_dropped()


def test_a_new_key_is_warned_of(lab, world, certs):
    before = served_certificate(world.gateway, certs)
    world.renew("--new-key")
    world.gateway.ctl("reload")
    warning = world.gateway.wait_event("gateway.key_changed")
    assert warning["level"] == "warn" and len(warning["pin_sha256"]) == 64
    assert len(world.gateway.events_of("gateway.key_changed")) == 1  # the CA's is the same
    wait_until(lambda: served_certificate(world.gateway, certs) != before)
    world.nothing_was_dropped()


def test_a_bad_file_changes_nothing(world, certs):
    gateway, good = world.gateway, world.gateway.config_file.read_text()
    before = served_certificate(gateway, certs)
    world.renew()  # would show if anything of the new configuration were taken
    bad_ones = [
        (good.replace('"workers"', '"werkers"'), "werkers"),
        (good.replace('"workers": 2', '"workers": -1'), "workers"),
        (good.replace("gateway.key", "ca.key"), "gateway.json: tls.key"),
        (good.replace("gateway.crt", "nowhere.crt"), "gateway.json: tls.certificate"),
        (good[:-5], "gateway.json"),
    ]
    for nth, (bad, named) in enumerate(bad_ones, 1):
        assert bad != good
        gateway.config_file.write_text(bad)
        done = gateway.build.run("posternctl", "--db", gateway.database, "reload", check=1)
        assert named in done.stderr, done.stderr
        assert named in gateway.wait_event("gateway.reload", level="error", count=nth)["error"]
    mark = gateway.mark()
    gateway.sighup()
    gateway.wait_event("gateway.reload", since=mark, level="error")
    assert served_certificate(gateway, certs) == before
    world.nothing_was_dropped()
    gateway.config_file.write_text(good)
    gateway.ctl("reload")
    wait_until(lambda: served_certificate(gateway, certs) != before)


def test_new_limits_hold_from_then_on(lab, world):
    gateway = world.gateway
    waiting = lab.visit(gateway.port)
    hole = lab.blackhole()
    gateway.reload(limits={"handshake_seconds": 1, "buffer_mib": 7, "dial_seconds": 1})
    assert gateway.ctl("status", json=True)["buffer_bound_bytes"] == 7 << 20
    assert how_closed(waiting, 2) == "fin"
    newcomer = lab.agent(gateway, world.token, [tcp("hole", hole)], instance="new")
    stuck = lab.visit(newcomer.port_of("hole"))
    assert how_closed(stuck, 3) == "reset"
    echo_all([world.visitor], b"still here")


def test_the_oldest_version_of_tls_can_be_raised(world, certs):
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    assert served_certificate(world.gateway, certs, **old)
    world.gateway.reload(tls={"min_version": "1.3"})

    def refused():
        try:
            served_certificate(world.gateway, certs, **old)
        except ssl.SSLError as error:
            return "protocol version" in str(error)
        return False
    wait_until(refused)
    assert served_certificate(world.gateway, certs)
    world.nothing_was_dropped()


@pytest.mark.parametrize("change, key", [
    ({"workers": 3}, "workers"), ({"database": "elsewhere"}, "database"), ({"control": {"listen": ["127.0.0.1:1"]}}, "control.listen"),
])
def test_what_needs_a_restart_is_said(world, change, key):
    world.gateway.write_config(**change)
    world.gateway.sighup()
    warned = world.gateway.wait_event("gateway.reload", level="warn")
    assert warned["key"] == key
    world.nothing_was_dropped()
    world.gateway.write_config(workers=2, database="db", control={"listen": [world.gateway.address]})


def test_the_log_level_follows_the_configuration(lab):
    gateway = lab.gateway(start=False)
    at = gateway.argv.index("--log-level")
    del gateway.argv[at:at + 2]
    gateway.start()
    gateway.ctl("status")
    assert not gateway.events_of(level="debug")
    gateway.reload(log={"level": "debug"})
    gateway.ctl("status")
    gateway.wait_event("admin.command", level="debug")
    gateway.reload(log={"level": "error"})
    mark = gateway.mark()
    gateway.add_user("quiet")
    assert how_closed(connect_garbage(gateway), 2) != "open"
    gateway.reload(log={"level": "info"})
    gateway.wait_event("gateway.reload", since=mark)
    assert not gateway.events_of("auth.fail")


def connect_garbage(gateway):
    sock = connect(gateway.port)
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return sock


def test_the_command_line_wins_over_a_reload(lab):
    gateway = lab.gateway(log_level="info")
    gateway.reload(log={"level": "error", "format": "text"})
    assert how_closed(connect_garbage(gateway), 2) != "open"
    assert gateway.wait_event("auth.fail")["level"] == "warn"


# Mutual TLS

def shown(crt_key):
    return {"certificate": str(crt_key[0]), "key": str(crt_key[1])}


def short_lived(certs, folder, name, start, end):
    """(crt, key) of a client with chosen dates."""
    crt, key = certs.client(name)
    (folder / "index").touch()
    (folder / "ca.conf").write_text(f"[ca]\ndefault_ca = it\n[it]\ndatabase = {folder}/index\nnew_certs_dir = {folder}\n"
                                    "policy = any\ndefault_md = sha256\nrand_serial = yes\nx509_extensions = client\n"
                                    "unique_subject = no\n[any]\ncommonName = supplied\n[client]\n"
                                    "extendedKeyUsage = clientAuth\nbasicConstraints = critical,CA:FALSE\n")
    csr, out = folder / "csr", folder / f"{name}-{start}-{end}.crt"
    stamp = [time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + offset)) for offset in (start, end)]
    for command in (["req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", csr],
                    ["ca", "-batch", "-notext", "-config", folder / "ca.conf", "-cert", certs.ca, "-keyfile",
                     certs.ca.parent / "ca.key", "-in", csr, "-out", out, "-startdate", stamp[0], "-enddate", stamp[1]]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return out, key


@pytest.fixture
def mutual(lab, certs):
    """A gateway that asks for client certificates."""
    return lab.gateway(tls={"client_ca": str(certs.ca)})


def test_an_agent_with_its_user_s_certificate_gets_in(lab, certs, mutual):
    token, echo = mutual.token_for("alice"), lab.echo()
    agent = lab.agent(mutual, token, [tcp("echo", echo)], tls=shown(certs.client("alice")))
    assert round_trip(agent.port_of("echo"), b"in") == b"in"
    proxied = lab.link_proxy(mutual)
    again = lab.agent(mutual, token, [tcp("echo", echo)], tls=shown(certs.client("alice")), instance="again",
                      server=proxied.address, connected=True)
    mark = again.mark()
    proxied.cut()  # it comes back, resuming TLS perhaps
    again.wait_event("agent.connected", since=mark)
    assert round_trip(again.port_of("echo"), b"back") == b"back"


def test_an_agent_without_a_certificate_is_told_so(lab, mutual):
    agent = lab.agent(mutual, mutual.token_for("alice"))
    assert mutual.wait_event("auth.fail")["reason"] == "certificate"
    assert "certificate" in agent.wait_event("agent.retry")["reason"]
    assert not mutual.events_of("session.open")


def test_the_certificate_of_another_user_is_refused(lab, certs, mutual):
    token = mutual.token_for("alice")
    agent = lab.agent(mutual, token, tls=shown(certs.client("bob")))
    failed = mutual.wait_event("auth.fail")
    assert failed["reason"] == "certificate"
    assert agent.wait_event("agent.retry")["reason"].startswith("certificate")
    assert not mutual.events_of("session.open")


def test_an_expired_certificate_is_refused(lab, certs, mutual, tmp_path):
    token = mutual.token_for("alice")
    agent = lab.agent(mutual, token, tls=shown(short_lived(certs, tmp_path, "alice", -7200, -3600)))
    failed = mutual.wait_event("auth.fail")
    assert failed["reason"] == "certificate" and "expired" in failed["msg"]
    assert "expired" in agent.wait_event("agent.retry")["reason"]


def test_the_certificate_of_another_authority_is_refused(lab, certs, mutual):
    agent = lab.agent(mutual, mutual.token_for("alice"), tls=shown(certs.other().client("alice")))
    assert mutual.wait_event("auth.fail")["reason"] == "certificate"
    agent.wait_event("agent.retry")


def test_a_session_ends_with_its_certificate(lab, certs, mutual, tmp_path):
    token = mutual.token_for("alice")
    agent = lab.agent(mutual, token, [tcp("echo", lab.echo())], tls=shown(short_lived(certs, tmp_path, "alice", -3600, 3)))
    port = agent.port_of("echo")
    mutual.ctl("user", "limit", "alice", "--tunnels", "5")  # judged anew, its end is still that of the certificate
    visitor = lab.visit(port)
    echo_all([visitor], b"in")
    closed = mutual.wait_event("session.close", timeout=6)
    assert closed["reason"] == "certificate" and closed["seconds"] > 0
    assert how_closed(visitor, 1) == "reset"
    wait_until(lambda: port_is_free(port), 1)
    assert mutual.wait_event("auth.fail", timeout=5)["reason"] == "certificate"  # resuming TLS does not help
    assert agent.running


def test_asking_for_certificates_from_now_on(lab, certs, world):
    world.gateway.reload(tls={"client_ca": str(certs.ca)})
    world.nothing_was_dropped()
    lab.agent(world.gateway, world.token, instance="bare")
    assert world.gateway.wait_event("auth.fail")["reason"] == "certificate"
    lab.agent(world.gateway, world.token, instance="shown", tls=shown(certs.client("alice")), connected=True)


# A log that nobody reads

LONG = "a" * 60


def crowd_of_lines(port, count):
    for _ in range(count):
        assert round_trip(port, b"x") == b"x"


def test_a_stalled_log_stops_nobody_and_what_is_lost_is_counted(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for(LONG), [tcp(LONG, echo)])
    port = agent.port_of(LONG)
    gateway.hold_log()
    began = time.monotonic()
    crowd_of_lines(port, 2200)  # more than the pipe and the ring of the log hold
    took = time.monotonic() - began
    assert gateway.ctl("status", json=True)["sessions"] == 1
    gateway.release_log()
    lost = gateway.wait_event("log.lost")
    assert lost["level"] == "warn" and lost["lines"] > 0
    began = time.monotonic()
    crowd_of_lines(port, 400)
    assert took / 2200 < 2 * (time.monotonic() - began) / 400

    def counted():
        seen = len(gateway.events_of("visitor.open")) + len(gateway.events_of("visitor.close"))
        return seen + sum(e["lines"] for e in gateway.events_of("log.lost")) == 2 * 2600
    wait_until(counted, 5, "each line is seen or counted as lost")


def test_a_second_signal_ends_a_gateway_at_once(lab):
    gateway, echo = lab.gateway(), lab.echo()
    agent = lab.agent(gateway, gateway.token_for(LONG), [tcp(LONG, echo)])
    port = agent.port_of(LONG)
    gateway.hold_log()  # it waits for its last lines to be read
    crowd_of_lines(port, 500)
    gateway.signal(15)
    wait_until(lambda: port_is_free(gateway.port) and port_is_free(port))
    assert gateway._child.poll() is None
    gateway.signal(15)
    wait_until(lambda: gateway._child.poll() is not None, 0.5)
    gateway.release_log()
    gateway.expect_exit(0)

"""The agent at a real gateway: command line, certificates, token, reload, reconnect, targets, and its end."""
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import time

import pytest

from harness import (abort, expect_eof, expect_open, how_closed, how_visit_ends, random_payload, recv_exact, round_trip,
                     scaled, tcp, wait_until)

# ---- the command line ----


@pytest.mark.parametrize("arguments, says", [
    ([], "give -c FILE, or tcp TARGET"),
    (["sctp", "53"], "unknown command sctp"),
    (["http", "80"], "unknown command http"),
    (["import", "appsettings.json"], "unknown command import"),
    (["tcp"], "tcp: the target is missing"),
    (["tcp", "22", "--host", "a.example.com"], "unknown option --host"),
    (["tcp", "22", "--token", "S3cret"], "--token: a secret never comes from the command line"),
    (["tcp", "22", "--server", "gw:7841"], "--token-file: missing, and POSTERN_TOKEN is not set"),
    (["tcp", "22", "--server", "gw:7841", "--token-file", "none"], "--token-file: token file none: "),
    (["tcp", "22", "--server", "gw:7841", "--token-file", "empty"], "--token-file: token file empty: empty"),
    (["tcp", "22", "--server", "gw", "--token-file", "token"], "--server: "),
    (["tcp", "nowhere", "--server", "gw:7841", "--token-file", "token"], "target: \"nowhere\""),
    (["tcp", "22", "--server", "gw:7841", "--token-file", "token", "--ca", "token"], "TLS: "),
    (["tcp", "22", "--enrol-file", "token"], "token: not an enrolment line"),
    (["-c", "none.json"], "none.json: No such file or directory"),
    (["-c", "bad.json"], "bad.json: tunnels[1].protocol: \"sctp\" is not known (tcp, udp)"),
    (["-c", "bad.json", "--port", "22"], "--port: "),
])
def test_bad_usage(lab, arguments, says):
    (lab.folder / "token").write_text("a token\n")
    (lab.folder / "empty").write_text(" \n")
    (lab.folder / "bad.json").write_text(json.dumps({
        "server": "gw:7841", "token_file": "token",
        "tunnels": [tcp("a", 22), {"name": "b", "protocol": "sctp", "target": "53"}]}))
    done = lab.run("postern", *arguments, check=2)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("postern: ") and says in lines[0], done.stderr
    assert not done.stdout and "S3cret" not in done.stderr


def test_an_empty_secret_of_the_environment_is_no_secret(lab):
    line = ("tcp", "22", "--server", "gw:7841")
    assert "POSTERN_TOKEN: empty" in lab.run("postern", *line, check=2, env={"POSTERN_TOKEN": ""}).stderr
    assert "POSTERN_ENROL: " in lab.run("postern", *line, check=2, env={"POSTERN_ENROL": ""}).stderr


def test_help_fits_a_screen_and_shows_an_example(lab):
    lines = lab.run("postern", "--help").stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert any(line.startswith("Example: postern tcp ") for line in lines)


def test_one_line(lab, gateway):
    echo = lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), arguments=["tcp", str(echo.port)])
    opened = agent.wait_event("tunnel.open", tunnel=f"tcp-{echo.port}", user="alice", protocol="tcp",
                              target=echo.address)
    assert opened["msg"] == f"tcp-{echo.port}: 127.0.0.1:{opened['port']} -> {echo.address}"
    assert round_trip(opened["port"], b"hello") == b"hello"
    mark = agent.mark()
    agent.signal(signal.SIGHUP)
    agent.wait_event("config.reload", since=mark, msg=lambda m: "ignored" in m)
    assert round_trip(opened["port"], b"hello") == b"hello"


def test_one_line_with_its_options(lab, gateway):
    echo = lab.echo()
    wanted = gateway.ports[5]
    line = ["tcp", echo.address, "--name=web", "--port", str(wanted), "--strict-port"]
    agent = lab.agent(gateway, None, arguments=line, instance="box",
                      env={"POSTERN_TOKEN": gateway.token_for("alice")})
    assert agent.port_of("web") == wanted
    gateway.wait_event("session.open", user="alice", instance="box")


@pytest.mark.parametrize("by", ["file", "environment"])
def test_an_enrolment_line_is_all_it_needs(lab, gateway, by):
    echo = lab.echo()
    line = gateway.token_for("alice", enrol=True)
    if by == "file":
        agent = lab.agent(gateway, arguments=["tcp", echo.address], enrol=line)
    else:
        agent = lab.agent(gateway, arguments=["tcp", echo.address], enrol="unused", env={"POSTERN_ENROL": line},
                          start=False)
        agent.argv = [a for a in agent.argv if a not in ("--enrol-file", "enrol")]
        agent.start()
    assert round_trip(agent.port_of(f"tcp-{echo.port}"), b"hello") == b"hello"


def test_the_text_log_tells_where_the_tunnel_leads(lab, gateway):
    echo = lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("ssh", echo)], start=False)
    agent.argv[agent.argv.index("json")] = "text"
    agent.start()
    port = agent.wait_line(rf"ssh: 127\.0\.0\.1:(\d+) -> {re.escape(echo.address)}\b")[1]
    assert round_trip(int(port), b"hello") == b"hello"


def test_a_token_file_that_others_can_read_is_a_warning(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), start=False)
    agent.token_file.chmod(0o644)
    agent.start()
    agent.wait_event("config.secret", level="warn", file="token")
    agent.wait_event("agent.connected")


# ---- certificates ----


def pin_of(crt, index=0):
    """SHA-256 of a public key in a PEM file, in hex."""
    certificate = crt.read_text().split("-----END CERTIFICATE-----")[index] + "-----END CERTIFICATE-----\n"
    key = subprocess.run(["openssl", "x509", "-noout", "-pubkey"], input=certificate, capture_output=True, text=True,
                         check=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.encode(), capture_output=True,
                         check=True).stdout
    return hashlib.sha256(der).hexdigest()


def refused_because(lab, gateway, words, **tls):
    """The agent does not connect and says why, and has not shown its token."""
    agent = lab.agent(gateway, "a token", tls=tls)
    retry = agent.wait_event("agent.retry", server=gateway.address)
    assert re.search(words, retry["reason"], re.IGNORECASE), retry["reason"]
    assert not agent.events_of("agent.connected") and not gateway.events_of("auth.fail", reason="unknown_token")


def test_a_wrong_authority(lab, gateway, certs):
    refused_because(lab, gateway, "not signed by a trusted CA", ca=str(certs.other().ca))


def test_the_trust_store_of_the_system_does_not_know_it(lab, gateway):
    refused_because(lab, gateway, "not signed by a trusted CA", ca=None)


def test_a_wrong_host_name(lab, gateway):
    refused_because(lab, gateway, "certificate is for .*, not for gw.example.com", server_name="gw.example.com")


def test_a_wrong_address(lab, certs):
    crt, key = certs.gateway_for("gw.example.com")
    gateway = lab.gateway(tls={"certificate": str(crt), "key": str(key)})
    refused_because(lab, gateway, "certificate is for gw.example.com, not for 127.0.0.1")
    agent = lab.agent(gateway, gateway.token_for("alice"), tls={"server_name": "gw.example.com"})
    agent.wait_event("agent.connected")


def test_an_expired_certificate(lab, certs):
    crt, key = certs.expired()
    gateway = lab.gateway(tls={"certificate": str(crt), "key": str(key)})
    refused_because(lab, gateway, "expired on")
    refused_because(lab, gateway, "expired on", ca=None, pin_sha256=pin_of(certs.ca))  # its date still counts


def test_a_wrong_pin(lab, gateway, certs):
    wrong = pin_of(certs.other().ca)
    refused_because(lab, gateway, "matches the pinned key", ca=None, pin_sha256=wrong)
    refused_because(lab, gateway, "matches the pinned key", pin_sha256=[wrong])  # with a CA both must hold


def test_a_pin_does_not_replace_the_authority(lab, gateway, certs):
    refused_because(lab, gateway, "not signed by a trusted CA", ca=str(certs.other().ca),
                    pin_sha256=pin_of(certs.crt))


@pytest.mark.parametrize("form", ["hex", "colons", "list"])
@pytest.mark.parametrize("of", ["leaf", "authority"])
def test_a_pin_is_enough(lab, gateway, certs, of, form):
    pin = pin_of(certs.crt if of == "leaf" else certs.ca)
    value = {"hex": pin, "colons": ":".join(re.findall("..", pin.upper())), "list": ["00" * 32, pin]}[form]
    agent = lab.agent(gateway, gateway.token_for("alice"), tls={"ca": None, "pin_sha256": value})
    agent.wait_event("agent.connected")


def test_a_pinned_leaf_replaces_name_and_date(lab, certs):
    crt, key = certs.expired()
    gateway = lab.gateway(tls={"certificate": str(crt), "key": str(key)})
    agent = lab.agent(gateway, gateway.token_for("alice"),
                      tls={"ca": None, "pin_sha256": pin_of(crt), "server_name": "other.example.com"})
    agent.wait_event("agent.connected")


def test_a_pinned_authority_still_looks_at_the_name(lab, gateway, certs):
    refused_because(lab, gateway, "not for other.example.com", ca=None, pin_sha256=pin_of(certs.ca),
                    server_name="other.example.com")


def test_a_certificate_that_the_operator_mends(lab, certs):
    crt, key = certs.expired()
    gateway = lab.gateway(tls={"certificate": str(crt), "key": str(key)})
    agent = lab.agent(gateway, gateway.token_for("alice"))
    agent.wait_event("agent.retry")
    gateway.reload(tls={"certificate": str(certs.crt), "key": str(certs.key)})
    agent.wait_event("agent.connected")


# ---- the token ----


def test_the_token_is_read_again_before_each_attempt(lab):
    gateway = lab.gateway()
    token = gateway.token_for("alice")
    gateway.stop()
    agent = lab.agent(gateway, "not the token", [tcp("echo", lab.echo())])
    agent.wait_event("agent.retry", reason=lambda r: "refused" in r)
    agent.token_file.unlink()
    agent.wait_event("agent.retry", timeout=20, reason=lambda r: "token" in r and "No such file" in r)
    agent.set_token(token)
    gateway.start()
    agent.wait_event("agent.connected", timeout=40)


def test_an_unknown_token(lab, gateway):
    agent = lab.agent(gateway, "what is this?")
    agent.expect_exit(3)
    assert agent.events_of("agent.end", reason="unknown_token")


def test_a_token_for_a_while(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice", expires="2s"))
    agent.expect_exit(3)
    assert agent.events_of("agent.connected") and agent.events_of("agent.end", reason="expired")


def test_a_ban(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), connected=True)
    gateway.ctl("user", "ban", "alice", "--for", "3s")
    banned = time.time()
    retry = agent.wait_event("agent.retry", reason=lambda r: r.startswith("banned"))
    assert 1 < retry["seconds"] <= 3.1
    agent.wait_event("agent.connected", since=agent.mark())
    assert time.time() - banned > 2
    gateway.ctl("user", "ban", "alice")
    agent.expect_exit(3)


def test_another_run_takes_over(lab, gateway):
    token = gateway.token_for("alice")
    first = lab.agent(gateway, token, connected=True)
    lab.agent(gateway, token, connected=True)
    first.expect_exit(4)
    assert first.events_of("agent.end", reason="takeover")


# ---- reload ----


def test_a_reload_changes_only_what_changed(lab, gateway):
    one, two, three = lab.echo(), lab.source(b"two"), lab.source(b"three")
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", one), tcp("b", two)])
    a, b = agent.port_of("a"), agent.port_of("b")
    visitor = lab.visit(a)
    visitor.sendall(b"before")
    assert recv_exact(visitor, 6) == b"before"
    assert recv_exact(lab.visit(b), 3) == b"two"

    mark = agent.mark()
    agent.reload(tunnels=[tcp("a", one), tcp("b", three), tcp("c", two)])
    agent.wait_event("config.reload", since=mark, changes=3)
    assert recv_exact(lab.visit(agent.port_of("b", since=mark)), 5) == b"three"
    assert recv_exact(lab.visit(agent.port_of("c", since=mark)), 3) == b"two"
    visitor.sendall(b"after")
    assert recv_exact(visitor, 5) == b"after"
    assert not agent.events_of("tunnel.open", since=mark, tunnel="a")

    agent.reload(tunnels=[tcp("b", three)])
    agent.wait_event("tunnel.close", since=mark, tunnel="a")
    assert how_closed(visitor) == "reset"
    gateway.wait_event("tunnel.close", tunnel="c")
    assert len(agent.events_of("agent.connected")) == 1


def test_tunnels_that_swap_their_ports(lab, gateway):
    low, high = gateway.ports[3], gateway.ports[4]
    one, two = lab.source(b"1"), lab.source(b"2")
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", one, low, strict_port=True),
                                                            tcp("b", two, high, strict_port=True)])
    assert (agent.port_of("a"), agent.port_of("b")) == (low, high)
    mark = agent.mark()
    agent.reload(tunnels=[tcp("a", one, high, strict_port=True), tcp("b", two, low, strict_port=True)])
    assert (agent.port_of("a", since=mark), agent.port_of("b", since=mark)) == (high, low)
    assert recv_exact(lab.visit(high), 1) == b"1" and recv_exact(lab.visit(low), 1) == b"2"


@pytest.mark.parametrize("text, says", [
    ("{", "agent.json:1"),
    ('{"server": "gw:1"}', "tunnels: missing"),
    ('{"server": "gw:1", "token_file": "none", "tunnels": []}', "token_file: "),
])
def test_a_bad_file_changes_nothing(lab, gateway, text, says):
    echo = lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo)])
    port = agent.port_of("a")
    agent.config_file.write_text(text)
    agent.signal(signal.SIGHUP)
    assert says in agent.wait_event("config.reload", level="error")["reason"]
    assert round_trip(port, b"hello") == b"hello"
    gateway.restart()
    agent.wait_event("agent.connected", count=2, timeout=30)


def test_a_reload_leads_to_another_gateway_at_the_next_connection(lab):
    first, second = lab.gateway(), lab.gateway()
    agent = lab.agent(first, first.token_for("alice"), [tcp("a", lab.echo())])
    agent.port_of("a")
    agent.set_token(second.token_for("alice"))
    agent.reload(server=second.address)
    agent.wait_event("config.reload", msg=lambda m: "next connection" in m)
    assert not second.events_of("session.open")
    first.stop()
    agent.wait_event("agent.connected", server=second.address, timeout=30)
    assert agent.port_of("a", since=agent.mark() - 1) in second.ports


def test_a_reload_does_not_wait_for_the_next_try(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), tls={"server_name": "wrong.example.com"})
    agent.wait_event("agent.retry", timeout=60, count=4)  # waits 4 s and more
    mark = agent.mark()
    agent.reload(tls={"server_name": "localhost"})
    agent.wait_event("agent.connected", since=mark, timeout=3)


# ---- the way to the gateway ----


@pytest.mark.tsan
def test_a_restarted_gateway_gets_its_agent_back_on_the_same_port(lab, gateway):
    echo = lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo), tcp("b", echo)])
    ports = agent.port_of("a"), agent.port_of("b")
    mark = agent.mark()
    gateway.restart()
    agent.wait_event("agent.connected", since=mark, timeout=30)
    assert (agent.port_of("a", since=mark), agent.port_of("b", since=mark)) == ports
    assert round_trip(ports[0], b"hello") == b"hello"


def test_a_cut_link_is_mended(lab, gateway):
    proxy = lab.link_proxy(gateway)
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.echo())], server=proxy.address)
    port = agent.port_of("a")
    visitor = lab.visit(port)
    visitor.sendall(b"x")
    recv_exact(visitor, 1)
    mark = agent.mark()
    proxy.cut()
    retry = agent.wait_event("agent.retry", since=mark)
    assert retry["reason"].startswith("lost: ") and 0.5 <= retry["seconds"] <= 1
    assert how_closed(visitor) == "reset"
    agent.wait_event("agent.connected", since=mark)
    assert round_trip(port, b"hello") == b"hello"


def test_every_address_of_the_server_is_tried(lab, gateway):
    # localhost is ::1 too, where nobody listens.
    agent = lab.agent(gateway, gateway.token_for("alice"), server=f"localhost:{gateway.port}")
    agent.wait_event("agent.connected", server=f"localhost:{gateway.port}")


def test_a_server_whose_name_is_unknown(lab, gateway):
    agent = lab.agent(gateway, "a token", server="gateway.invalid:7841")
    agent.wait_event("agent.retry", timeout=30, reason=lambda r: "cannot be resolved" in r)


def test_the_waits_grow(lab):
    port = lab.refused_port()
    gateway = lab.gateway(start=False)
    agent = lab.agent(gateway, "a token", server=port.address)
    agent.wait_event("agent.retry", count=4, timeout=30, reason="connection refused")
    waits = [e["seconds"] for e in agent.events_of("agent.retry")]
    assert all(low <= wait <= 2 * low for low, wait in zip((0.5, 1, 2, 4), waits)), waits


# ---- targets ----


def test_a_target_that_refuses(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.refused_port()), tcp("b", lab.echo())],
                      log_level="debug")
    a, b = agent.port_of("a"), agent.port_of("b")
    neighbour = lab.visit(b)
    assert how_visit_ends(a, b"x") == "reset"
    assert gateway.wait_event("visitor.close", tunnel="a")["reason"] == "refused"
    agent.wait_event("visitor.close", tunnel="a", reason="refused")
    neighbour.sendall(b"x")
    assert recv_exact(neighbour, 1) == b"x"


def test_a_target_that_hangs(lab):
    gateway = lab.gateway(limits={"dial_seconds": 1})
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.blackhole())], log_level="debug")
    port = agent.port_of("a")
    begin = time.monotonic()
    assert how_visit_ends(port, b"x") == "reset"
    assert 0.9 < time.monotonic() - begin < scaled(4)
    closed = agent.wait_event("visitor.close", tunnel="a")
    assert closed["reason"] == gateway.wait_event("visitor.close", tunnel="a")["reason"] == "dial_timeout"


def test_many_visitors_of_a_target_that_hangs(lab):
    gateway = lab.gateway(limits={"dial_seconds": 1})
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.blackhole())], log_level="debug")
    port = agent.port_of("a")
    for sock in lab.visits(port, 100):
        assert how_closed(sock) == "reset"
    agent.wait_event("visitor.close", tunnel="a", reason="dial_timeout", count=100)


def test_a_target_that_resets(lab, gateway):
    target = lab.reset_target(on_first_data=True)
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", target)], log_level="debug")
    assert how_visit_ends(agent.port_of("a"), b"x") == "reset"
    agent.wait_event("visitor.close", tunnel="a", reason="aborted")


def test_a_visitor_that_aborts_is_an_abort_at_the_target(lab, gateway):
    target = lab.sink()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", target)])
    visitor = lab.visit(agent.port_of("a"))
    wait_until(lambda: target.stats.open == 1)
    target.drain()
    abort(visitor)
    wait_until(lambda: target.stats.resets == 1, what="the target's connection is reset")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_target_by_name(lab, gateway, name):
    echo, payload = lab.echo(), random_payload(1 << 20)
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", f"{name}:{echo.port}")])
    port = agent.port_of("a")
    for _ in range(3):
        assert round_trip(port, payload) == payload
    greeter = lab.source(b"220 hello\r\n", then_fin=False)
    agent.reload(tunnels=[tcp("b", f"{name}:{greeter.port}")])
    assert recv_exact(lab.visit(agent.port_of("b")), 11) == b"220 hello\r\n"


def test_a_target_by_name_that_refuses(lab, gateway):
    refused = lab.refused_port()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", f"localhost:{refused.port}")], log_level="debug")
    assert how_visit_ends(agent.port_of("a"), b"x") == "reset"
    agent.wait_event("visitor.close", tunnel="a", reason="refused")


def test_a_target_whose_name_is_unknown(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", "target.invalid:80")], log_level="debug")
    assert how_visit_ends(agent.port_of("a"), b"x") == "reset"
    agent.wait_event("target.unknown", host="target.invalid")
    agent.wait_event("visitor.close", tunnel="a", reason=lambda r: r in ("unreachable", "dial_timeout"))


def test_half_close_both_ways(lab, gateway):
    echo = lab.echo()
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", echo)])
    visitor = lab.visit(agent.port_of("a"))
    wait_until(lambda: echo.stats.open == 1)
    expect_open(visitor)
    visitor.sendall(b"last words")
    visitor.shutdown(1)
    assert recv_exact(visitor, 10) == b"last words"
    expect_eof(visitor)
    wait_until(lambda: echo.stats.open == 0)
    assert (echo.stats.fins, echo.stats.resets) == (1, 0)


# ---- the process ----


@pytest.mark.release
def test_no_core_file_of_a_process_that_holds_a_token(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), connected=True)
    limits = pathlib.Path(f"/proc/{agent.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits


def test_descriptors_up_to_the_hard_limit(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), connected=True)
    limits = pathlib.Path(f"/proc/{agent.pid}/limits").read_text()
    soft, hard = re.search(r"^Max open files +(\d+) +(\d+) ", limits, re.MULTILINE).groups()
    assert soft == hard


# ---- the end ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_agent_leaves_in_order(lab, gateway, number):
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.echo())])
    visitor = lab.visit(agent.port_of("a"))
    visitor.sendall(b"x")
    recv_exact(visitor, 1)
    agent.signal(number)
    agent.expect_exit(0, timeout=2)
    assert gateway.wait_event("session.close", user="alice")["reason"] == "stop"
    assert how_closed(visitor) == "reset"


def test_the_agent_leaves_while_it_has_no_gateway(lab):
    agent = lab.agent(lab.gateway(start=False), "a token", server=lab.refused_port().address)
    agent.wait_event("agent.retry")
    agent.stop(timeout=2)


def test_the_agent_leaves_a_frozen_gateway(lab, gateway):
    agent = lab.agent(gateway, gateway.token_for("alice"), [tcp("a", lab.echo())])
    agent.port_of("a")
    gateway.freeze()
    agent.stop(timeout=2)
    gateway.thaw()
    assert gateway.wait_event("session.close", user="alice")["reason"] == "stop"

"""The web port: NSP clients' logins, what they are told, and how the port bears with whoever comes."""
import calendar
import concurrent.futures
import json
import re
import socket
import ssl
import time

import pytest

from harness import cpu_seconds, expect_eof, how_closed, scaled, tcp, wait_all_closed, wait_until

PASSWORD = "Correct-Horse-7"
WRONG = "error: wrong user name or password."
TOO_MANY = "error: too many wrong logins; try again in a minute."
HOST = "Host: 127.0.0.1:12309\r\n"
LABEL, DAYS_30 = "login", 30 * 24 * 3600


class Answer:
    def __init__(self, head, body):
        lines = head.decode("ascii").split("\r\n")
        self.version, status, self.reason = lines[0].split(" ", 2)
        self.status, self.body = int(status), body
        self.fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        self.json = json.loads(body) if body else None

    @property
    def data(self):
        assert self.status == 200 and self.json["State"] == 1 and self.json["Msg"] == "", self.json
        return self.json["Data"]

    @property
    def error(self):
        assert list(self.json) == ["State", "Msg", "Data"]
        assert self.json["State"] == 0 and self.json["Data"] is None, self.json
        return self.json["Msg"]


class Browser:
    """One connection to the web port, as the clients' or as nobody's. Everything is sent as it is given."""

    def __init__(self, gateway, source="127.0.0.1", plaintext=False, port=None):
        port = port or (gateway.plain_web_port if plaintext else gateway.web_port)
        self.sock = socket.create_connection(("127.0.0.1", port), scaled(10), (source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not plaintext:
            context = ssl.create_default_context(cafile=gateway.certs.ca)
            context.set_alpn_protocols(["http/1.1"])
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.left = b""

    def send(self, text):
        self.sock.sendall(text if isinstance(text, bytes) else text.encode("latin-1"))

    def _read_until(self, enough):
        while not enough():
            part = self.sock.recv(65536)
            assert part, f"the connection ended after {self.left!r}"
            self.left += part

    def answer(self, body=True):
        self._read_until(lambda: b"\r\n\r\n" in self.left)
        head, self.left = self.left.split(b"\r\n\r\n", 1)
        answer = Answer(head, b"")
        length = int(answer.fields["content-length"]) if body else 0
        self._read_until(lambda: len(self.left) >= length)
        content, self.left = self.left[:length], self.left[length:]
        return Answer(head, content)

    def get(self, target, fields="", method="GET", version="1.1"):
        self.send(f"{method} {target} HTTP/{version}\r\n{fields}{HOST}\r\n")
        return self.answer(body=method != "HEAD")

    def login(self, user, password):
        return self.get(f"/LoginFromClient?username={user}&userpwd={password}")

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def set_password(gateway, user, password=PASSWORD):
    gateway.ctl("user", "passwd", user, input=password + "\n")
    gateway.secrets.append(password)


def login(gateway, user, password=PASSWORD, **options):
    with Browser(gateway, **options) as browser:
        answer = browser.login(user, password)
    if answer.json["State"]:
        gateway.secrets.append(answer.json["Data"]["Token"])
    return answer


def ask(gateway, target, fields="", **options):
    with Browser(gateway, **options) as browser:
        return browser.get(target, fields)


def add_user(gateway, user, password=PASSWORD):
    user_id = gateway.add_user(user)
    set_password(gateway, user, password)
    return user_id


@pytest.fixture
def alice(lab):
    """A gateway with the user alice, logging all it can."""
    gateway = lab.gateway(log_level="debug")
    gateway.alice = add_user(gateway, "alice")
    return gateway


# The exchange of the real client

@pytest.mark.tsan
def test_the_real_clients_exchange(alice):
    with Browser(alice) as first, Browser(alice) as second:
        first.send(f"GET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\nHost: 127.0.0.1:12309\r\n\r\n")
        answer = first.answer()
        data = answer.data
        alice.secrets.append(data["Token"])
        assert re.fullmatch(r"pst_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", data["Token"])
        assert data["Userid"] == str(alice.alice) and re.fullmatch(r"Postern [0-9.]+", data["Version"])
        assert list(data) == ["Token", "Version", "Userid"]
        assert answer.version == "HTTP/1.1" and answer.reason == "OK" and "connection" not in answer.fields
        assert answer.fields["content-type"] == "application/json; charset=utf-8"
        assert answer.fields["cache-control"] == "no-store" and answer.fields["x-content-type-options"] == "nosniff"
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.fields["date"])
        second.send(f"GET /GetServerClientConfig?userid= HTTP/1.1\r\nCookie: NSPTK={data['Token']}\r\n"
                    "Host: 127.0.0.1:12309\r\n\r\n")
        assert second.answer().body == b'{"State":1,"Msg":"","Data":null}'
        first.send("GET /GetServerPorts HTTP/1.1\r\nHost: 127.0.0.1:12309\r\n\r\n")
        assert first.answer().data == {"ReversePort": alice.reverse_port, "ConfigPort": alice.port,
                                       "WebAPIPort": alice.web_port}
    event = alice.wait_event("web.login", user="alice", over="tls")
    assert event["peer"].startswith("127.0.0.1:")


def test_the_token_is_an_ordinary_one_for_thirty_days(lab, alice):
    before = time.time()
    token = login(alice, "alice").data["Token"]
    listed, = alice.tokens("alice")
    assert listed["label"] == LABEL and token.split("_")[1] == listed["id"]
    ends = seconds_of(listed["expires"])
    assert before + DAYS_30 - 2 <= ends <= time.time() + DAYS_30 + 2
    echo = lab.echo()
    lab.agent(alice, token, [tcp("echo", echo)]).port_of("echo")


def seconds_of(text):
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def test_the_newest_five_stay_and_the_one_in_use(lab, alice):
    used = login(alice, "alice").data["Token"]
    lab.agent(alice, used, connected=True)
    later = [login(alice, "alice").data["Token"] for _ in range(7)]
    ids = {token["id"] for token in alice.tokens("alice")}
    assert ids == {token.split("_")[1] for token in [used, *later[-5:]]}


def test_an_nsp_client_lives_on_the_token(lab):
    gateway, echo = lab.gateway(), lab.echo()
    add_user(gateway, "alice")
    data = login(gateway, "alice").data
    client = lab.nsp_client(gateway, data["Token"], [echo])
    client.client_id = int(data["Userid"])
    client.login(op=3)
    assert client.client_id == int(data["Userid"])
    with lab.visit(client.port) as visitor:
        visitor.sendall(b"hello")
        assert visitor.recv(5) == b"hello"


# Who is let in

@pytest.mark.tsan
def test_wrong_unknown_and_without_password_are_alike(alice):
    alice.add_user("bob")
    seconds = {}
    for user in ("alice", "bob", "nobody", "Not a name!"):
        before = cpu_seconds(alice.pid)
        for _ in range(2):
            assert login(alice, user.replace(" ", "%20"), "wrong").error == WRONG
        seconds[user] = cpu_seconds(alice.pid) - before
    assert min(seconds.values()) > max(seconds.values()) / 4, seconds
    alice.wait_event("auth.fail", reason="unknown_token", count=8)
    events = alice.events_of("auth.fail", reason="unknown_token")
    assert [event["user"] for event in events] == ["alice"] * 2 + ["bob"] * 2 + [None] * 4
    assert all(event["peer"].startswith("127.0.0.1:") and "password" in event["msg"] for event in events)
    rows = alice.ctl("audit", json=True)
    assert any("unknown_token" in json.dumps(row) and "127.0.0.1" in json.dumps(row) for row in rows)
    assert login(alice, "alice").data


def test_a_banned_user_hears_of_it_with_the_right_password_alone(alice):
    alice.ctl("user", "ban", "alice")
    assert login(alice, "alice").error == "Error: User has banned."
    assert login(alice, "alice", "wrong").error == WRONG
    alice.wait_event("auth.fail", reason="banned", user="alice")
    alice.ctl("user", "unban", "alice")
    assert login(alice, "alice").data


ODD_PASSWORDS = ["a&b=c", "x#y", "1+1", "a/b?c=d", "100%", "%zz%4", "&userpwd=x", "\"<>\\^`{|}~"]


def test_passwords_pasted_into_the_url(alice):
    for password in ODD_PASSWORDS:
        alice.ctl("user", "passwd", "alice", input=password + "\n")
        assert login(alice, "alice", password).data, password
    alice.ctl("user", "passwd", "alice", input="a b&c=1+d#\u00e9A/?\n")
    assert login(alice, "alice", "a%20b&c=1+d#%C3%A9A/?").data
    assert ask(alice, "/LoginFromClient?userpwd=a%20b&c=1+d#%C3%A9A/?&username=alice").data


def test_queries_that_are_no_login(alice):
    for query in ("", "?", "?username=alice", "?user=alice&pwd=x", "?username=alice&userpwd=%00"):
        assert ask(alice, "/LoginFromClient" + query).error == "error: username and userpwd are needed."
    alice.wait_event("auth.fail", reason="malformed", count=5)
    assert login(alice, "alice").data


def test_nothing_secret_is_logged(alice):
    token = login(alice, "alice").data["Token"]
    login(alice, "alice", "Another-Secret-9")
    login(alice, "Swapped-Secret-8", "alice")
    for target in ("/LoginFromClient/Hidden-Secret-1", "/Hidden-Secret-1?Hidden-Secret-1", "/login&Hidden-Secret-1"):
        ask(alice, target)
    with Browser(alice) as browser:
        browser.send(f"GET /LoginFromClient?username=alice&userpwd=Hidden-Secret-1 HTTP/1.1\r\nbad\r\n{HOST}\r\n")
        assert browser.answer().status == 400
    with Browser(alice) as browser:
        browser.send("GET /LoginFromClient?username=alice&userpwd=Hidden-Secret-1")
    ask(alice, "/GetServerClientConfig", f"Cookie: NSPTK={token[:-1]}\r\n")
    alice.wait_event("web.request", path="/GetServerClientConfig")
    assert not [line for line in alice.lines if "Secret" in line or PASSWORD in line or token[17:-1] in line]


# Too many tries

def test_ten_wrong_ones_from_an_address(alice):
    for n in range(10):
        assert login(alice, f"nobody{n}", "wrong", source="127.0.0.2").error == WRONG
    begun = time.monotonic()
    for _ in range(20):
        assert login(alice, "alice", source="127.0.0.2").error == TOO_MANY
    assert login(alice, "alice").data  # from elsewhere
    alice.wait_event("auth.fail", reason="limit", count=20)
    assert time.monotonic() - begun < scaled(10)


def test_ten_wrong_ones_for_a_user(alice):
    add_user(alice, "bob")
    for n in range(10):
        assert login(alice, "alice", "wrong", source=f"127.0.1.{n + 1}").error == WRONG
    assert login(alice, "alice").error == TOO_MANY
    assert login(alice, "bob").data


@pytest.mark.tsan
def test_guesses_at_once_tell_no_more_than_ten(alice):
    guesses = ["wrong"] * 15 + [PASSWORD]
    browsers = [Browser(alice) for _ in guesses]
    for number, (browser, guess) in enumerate(zip(browsers, guesses), 1):
        browser.send(f"GET /LoginFromClient?username=alice&userpwd={guess} HTTP/1.1\r\n{HOST}\r\n")
        alice.wait_event("web.request", count=number)  # they are taken up in this order, the right one last
    answers = [browser.answer().error for browser in browsers]
    for browser in browsers:
        browser.close()
    assert answers.count(WRONG) == 10 and answers.count(TOO_MANY) == 6
    assert answers[-1] == TOO_MANY


def test_right_ones_are_not_counted(alice):
    for _ in range(15):
        assert login(alice, "alice").data


@pytest.mark.tsan
def test_a_crowd_logs_in_at_once(alice):
    for n in range(8):
        add_user(alice, f"user{n}")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: login(alice, f"user{n % 8}"), range(32)))
    assert all(answer.data["Token"] for answer in answers)
    assert len({answer.data["Token"] for answer in answers}) == 32


# Anonymous

def test_anonymous_is_off(alice):
    assert login(alice, "", "").error == "error: a user name and a password are needed here."
    alice.wait_event("auth.fail", reason="unknown_token")
    assert login(alice, "", "x").error == WRONG


def test_anonymous_users_ten_a_minute(lab):
    gateway = lab.gateway(anonymous=True)
    ids = []
    for _ in range(10):
        data = login(gateway, "", "").data
        ids.append(int(data["Userid"]))
        assert ask(gateway, "/GetServerClientConfig", f"Cookie: NSPTK={data['Token']}\r\n").data is None
    assert len(set(ids)) == 10 and all(60001 <= user <= 65000 for user in ids)
    assert "too many anonymous logins" in login(gateway, "", "").error
    assert login(gateway, "", "", source="127.0.0.2").data
    assert login(gateway, "", "x").error == WRONG
    gateway.reload(anonymous=False)
    wait_until(lambda: "needed" in login(gateway, "", "", source="127.0.0.3").json["Msg"], 5)


# The other calls

def test_ports_of_the_listener_that_was_asked(lab):
    gateway = lab.gateway(plaintext=True)
    assert ask(gateway, "/GetServerPorts").data == {
        "ReversePort": gateway.reverse_port, "ConfigPort": gateway.port, "WebAPIPort": gateway.web_port}
    assert ask(gateway, "/GetServerPorts", plaintext=True).data == {
        "ReversePort": gateway.plain_reverse_port, "ConfigPort": gateway.plain_port,
        "WebAPIPort": gateway.plain_web_port}
    add_user(gateway, "alice")
    assert login(gateway, "alice", plaintext=True).data
    gateway.wait_event("web.login", user="alice", over="plaintext")


def test_version(alice):
    assert re.fullmatch(r"Postern \d+\.\d+\.\d+", ask(alice, "/GetVersionInfo").data)


def test_the_client_config_is_for_those_who_are_in(alice):
    token = login(alice, "alice").data["Token"]

    def config(cookie):
        return ask(alice, "/GetServerClientConfig?userid=1", cookie)
    assert config(f"Cookie: NSPTK={token}\r\n").data is None
    assert config(f"Cookie: theme=dark; NSPTK={token}; x=y\r\n").data is None
    assert config(f"Cookie: theme=dark\r\ncookie: nsptk=\"{token}\"\r\n").data is None
    for cookie in ("", "Cookie: x=y\r\n", "Cookie: NSPTK=\r\n", f"Cookie: NSPTK={token}x\r\n",
                   "Cookie: NSPTK=zVw1HCO6e8eT2nIvk/z54D0KGsUuZ+EscZiLwVMLFY8=\r\n",
                   "Cookie: NSPTK=" + "x" * 5000 + "\r\n"):
        assert config(cookie).error == "error: not logged in."
    alice.ctl("user", "ban", "alice")
    assert config(f"Cookie: NSPTK={token}\r\n").error == "error: not logged in."


# HTTP

def test_paths_and_methods(alice):
    with Browser(alice) as browser:
        for path in ("/getserverports", "/GETSERVERPORTS?x=y", "http://any.where:1/GetServerPorts"):
            assert browser.get(path).data["WebAPIPort"] == alice.web_port
        for path in ("/", "/GetServerPorts/", "/login", "*", "/LoginFromClient.html", "any.where:443"):
            answer = browser.get(path)
            assert answer.status == 404 and answer.error
        for method in ("POST", "OPTIONS", "get", "DELETE"):
            answer = browser.get("/GetServerPorts", method=method)
            assert answer.status == 405 and answer.fields["allow"] == "GET, HEAD" and answer.error
        assert browser.get("/GetServerPorts").data


def test_head_has_no_body(alice):
    with Browser(alice) as browser:
        whole = browser.get("/GetVersionInfo")
        answer = browser.get("/GetVersionInfo", method="HEAD")
        assert answer.status == 200 and answer.fields["content-length"] == str(len(whole.body)) and not answer.body
        answer = browser.get(f"/LoginFromClient?username=alice&userpwd={PASSWORD}", method="HEAD")
        assert answer.status == 405 and answer.fields["allow"] == "GET"
        assert browser.get("/GetVersionInfo").data
    assert alice.tokens("alice") == []


def test_old_and_closing_connections(alice):
    with Browser(alice) as browser:
        answer = browser.get("/GetServerPorts", "Connection: Keep-Alive\r\n", version="1.0")
        assert answer.data and answer.fields["connection"] == "keep-alive"
        assert browser.get("/GetServerPorts", version="1.0").fields["connection"] == "close"
        expect_eof(browser.sock)
    with Browser(alice) as browser:
        answer = browser.get("/GetServerPorts", "Connection: close\r\n")
        assert answer.data and answer.fields["connection"] == "close"
        expect_eof(browser.sock)
    with Browser(alice) as browser:
        browser.send(f"GET /GetServerPorts HTTP/1.1\r\nConnection: close\r\n{HOST}\r\nGET / HTTP/1.1\r\n{HOST}\r\n")
        assert browser.answer().data
        assert browser.left == b""
        expect_eof(browser.sock)


@pytest.mark.tsan
def test_pipelined_requests_are_answered_in_order(alice):
    requests = ["/GetServerPorts", f"/LoginFromClient?username=alice&userpwd={PASSWORD}", "/nothing", "/GetVersionInfo",
                "/LoginFromClient?username=alice&userpwd=wrong", "/GetServerPorts"]
    with Browser(alice) as browser:
        browser.send("".join(f"GET {target} HTTP/1.1\r\n{HOST}\r\n" for target in requests * 3))
        for _ in range(3):
            assert "WebAPIPort" in browser.answer().data
            assert browser.answer().data["Userid"] == str(alice.alice)
            assert browser.answer().status == 404
            assert browser.answer().data.startswith("Postern")
            assert browser.answer().error == WRONG
            assert "WebAPIPort" in browser.answer().data
        assert browser.left == b""


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plaintext"])
def test_byte_by_byte_and_a_half_close(lab, plaintext):
    gateway = lab.gateway(plaintext=True)
    add_user(gateway, "alice")
    with Browser(gateway, plaintext=plaintext) as browser:
        for byte in f"GET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\n{HOST}\r\n":
            browser.send(byte)
        gateway.secrets.append(browser.answer().data["Token"])
        browser.send(f"\r\nGET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\n{HOST}\r\n")
        if plaintext:
            browser.sock.shutdown(socket.SHUT_WR)
            gateway.secrets.append(browser.answer().data["Token"])
            expect_eof(browser.sock)
        else:
            gateway.secrets.append(browser.answer().data["Token"])


BAD_HEADS = {
    "bare LF": (400, f"GET / HTTP/1.1\n{HOST}\r\n"),
    "a folded line": (400, f"GET / HTTP/1.1\r\n{HOST}A: b\r\n c\r\n\r\n"),
    "a NUL": (400, "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
    "a blank before the colon": (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "no Host": (400, "GET / HTTP/1.1\r\n\r\n"),
    "another version": (505, f"GET / HTTP/2.0\r\n{HOST}\r\n"),
    "something else": (400, b"\xf9\x00\x05token"),
    "a long head": (431, "GET /" + "a" * 9000 + f" HTTP/1.1\r\n{HOST}\r\n"),
    "many fields": (431, f"GET / HTTP/1.1\r\n{HOST}" + "A: b\r\n" * 101 + "\r\n"),
    "a body": (400, f"GET /GetServerPorts HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello"),
    "a chunked body": (400, f"GET /GetServerPorts HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    "a posted body": (405, f"POST /GetServerPorts HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhello"),
    "two lengths": (400, f"GET / HTTP/1.1\r\n{HOST}Content-Length: 0\r\nContent-Length: 1\r\n\r\n"),
}


@pytest.mark.parametrize("status, head", BAD_HEADS.values(), ids=BAD_HEADS)
def test_bad_requests_are_answered_and_closed(lab, status, head):
    gateway = lab.gateway(plaintext=True)
    for plaintext in (False, True):
        with Browser(gateway, plaintext=plaintext) as browser:
            browser.send(head)
            answer = browser.answer()
            assert answer.status == status and answer.error.startswith("error: ")
            assert answer.fields["connection"] == "close"
            assert browser.left == b""
            expect_eof(browser.sock)
        assert ask(gateway, "/GetServerPorts", plaintext=plaintext).data


def test_an_empty_body_is_none(alice):
    with Browser(alice) as browser:
        assert browser.get("/GetServerPorts", "Content-Length: 0\r\n").data
        assert browser.get("/GetServerPorts").data


# Whoever comes

def test_slow_and_idle_connections_are_closed(lab):
    gateway = lab.gateway(limits={"http_head_seconds": 1, "http_idle_seconds": 3})
    begun = time.monotonic()
    silent, trickling, idle = Browser(gateway), Browser(gateway), Browser(gateway)
    assert idle.get("/GetServerPorts").data
    trickling.send("GET /GetServerPorts HTTP/1.1\r\nA: ")
    for _ in range(4):
        if how_closed(trickling.sock, 0.2) != "open":
            break
        trickling.send("b")
    assert how_closed(trickling.sock, 3) != "open"
    assert how_closed(silent.sock, 3) != "open"
    assert time.monotonic() - begun < scaled(3)
    assert idle.get("/GetServerPorts").data
    assert how_closed(idle.sock, 0.5) == "open"
    assert how_closed(idle.sock, 6) != "open"


def test_who_does_not_read_is_closed(lab):
    gateway = lab.gateway(plaintext=True, limits={"http_head_seconds": 1})
    for plaintext in (False, True):
        with Browser(gateway, plaintext=plaintext) as browser:
            request = f"GET /GetServerPorts HTTP/1.1\r\n{HOST}\r\n".encode() * 100
            browser.sock.settimeout(scaled(20))
            with pytest.raises((ConnectionResetError, BrokenPipeError, ssl.SSLError)):
                for _ in range(100000):
                    browser.sock.sendall(request)
        assert ask(gateway, "/GetServerPorts").data


def test_an_address_has_so_many_connections(lab):
    gateway = lab.gateway(plaintext=True)
    silent = [Browser(gateway, plaintext=True) for _ in range(63)]
    idle = Browser(gateway, plaintext=True)
    assert idle.get("/GetServerPorts").data
    # The idle one gives way, then there is none.
    with Browser(gateway) as more:
        assert more.get("/GetServerPorts", "Connection: close\r\n").data
        assert how_closed(idle.sock, 5) != "open"
    silent.append(Browser(gateway, plaintext=True))
    one_more = Browser(gateway, plaintext=True)
    assert how_closed(one_more.sock, 5) != "open"
    assert ask(gateway, "/GetServerPorts", source="127.0.0.2").data
    silent.pop().close()
    wait_until(lambda: is_served(gateway), 5)
    for browser in silent:
        assert browser.get("/GetServerPorts").data
        browser.close()


def is_served(gateway):
    try:
        return ask(gateway, "/GetServerPorts", plaintext=True).data
    except (AssertionError, OSError):
        return None


def test_a_thousand_connections(lab):
    gateway = lab.gateway(plaintext=True, limits={"http_head_seconds": 60})
    silent = [Browser(gateway, f"127.0.2.{n % 32 + 1}", plaintext=True) for n in range(1024)]
    assert silent[-1].get("/GetServerPorts").data  # all before it have been taken
    newcomers = [Browser(gateway, "127.0.3.1", plaintext=True) for _ in range(3)]
    for newcomer in newcomers:
        assert newcomer.get("/GetServerPorts").data
    wait_all_closed([silent[-1].sock, silent[0].sock], 5)
    assert silent[500].get("/GetServerPorts").data
    for browser in silent + newcomers:
        browser.close()


# Ends

@pytest.mark.tsan
def test_a_stop_amid_logins(lab):
    for logged_in in range(3):
        gateway = lab.gateway()
        add_user(gateway, "alice")
        browsers = [Browser(gateway) for _ in range(20)]
        for n, browser in enumerate(browsers):
            password = PASSWORD if n % 2 else "wrong"
            browser.send(f"GET /LoginFromClient?username=alice&userpwd={password} HTTP/1.1\r\n{HOST}\r\n")
        for browser in browsers[:logged_in]:
            browser.answer()
        gateway.stop()
        for browser in browsers:
            assert how_closed(browser.sock) != "open"


@pytest.mark.tsan
def test_clients_that_leave_amid_logins(alice):
    for _ in range(3):
        browsers = [Browser(alice) for _ in range(6)]
        for browser in browsers:
            browser.send(f"GET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\n{HOST}\r\n")
        for browser in browsers:
            browser.close()
    assert login(alice, "alice").data


def test_a_full_queue_is_said(alice):
    browsers = [Browser(alice, f"127.0.4.{n % 3 + 1}") for n in range(120)]
    for browser in browsers:
        browser.send(f"GET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\n{HOST}\r\n")
    with Browser(alice) as other:
        assert other.get("/GetServerPorts").data
    answers = [browser.answer().json for browser in browsers]
    busy = [answer for answer in answers if answer["Msg"] == "error: the gateway is busy; try again."]
    assert 0 < len(busy) <= 120 - 64 and all(answer["State"] or answer in busy for answer in answers)
    for browser in browsers:
        browser.close()


def test_a_user_removed_amid_a_login(alice):
    with Browser(alice) as browser:
        browser.send(f"GET /LoginFromClient?username=alice&userpwd={PASSWORD} HTTP/1.1\r\n{HOST}\r\n")
        alice.ctl("user", "remove", "alice")
        answer = browser.answer()
    assert answer.json["State"] == 1 or answer.error == WRONG
    assert login(alice, "alice").error == WRONG

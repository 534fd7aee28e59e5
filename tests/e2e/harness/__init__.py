"""The harness of the end-to-end tests: drives the real programs over real sockets.

Tests take the fixtures of conftest.py (`lab`, `gateway`, `certs`, `build`) and import the helpers from here.
"""
from .certs import Certs
from .datagrams import LARGEST, UdpEcho, UdpTarget, ask, silent, udp_visitor
from .lab import Lab
from .linkproxy import LinkProxy
from .nsp_client import NspClient, Refused
from .nsp_wire import Dialer
from .ports import PortRange, port_is_free
from .procfs import cpu_seconds, fd_count, listening_ports, rss_kib, thread_count
from .process import Process
from .programs import Agent, Build, Gateway, http_tunnel, tcp, tls_tunnel, udp
from .targets import Blackhole, Discard, Echo, RefusedPort, Reset, Sink, Source, Target
from .timing import scaled, set_scale, wait_until
from .visitors import (abort, connect, echo_all, expect_eof, expect_open, expect_reset, how_closed, how_visit_ends,
                       open_many, random_payload, recv_all, recv_exact, round_trip, send_until_blocked, wait_all_closed)

#!/usr/bin/env python3
"""The benchmark: Postern against ssh -R and bare loopback, in interleaved rounds. tools/bench.sh runs it.

Each piece of work is given to all contenders before the next, in an order that changes every time, so that what else
happens on the machine hits them alike. Memory is measured on programs started for it alone.
"""
import argparse
import itertools
import json
import pathlib
import resource
import shutil
import sys
import tempfile

import report
from contenders import Loopback, Nsp, Postern, Ssh
from programs import BenchError, Load, run, settled_kib

# (mode of the load generator, connections)
LOADS = [("conn", 1), ("conn", 32), ("conn", 256), ("ping", 1), ("ping", 32), ("pump", 4), ("download", 4),
         ("upload", 4)]
MEMORY = "memory"
# NSP clients, and the agent beside them.
NSP = "nsp"
NSP_LOADS = [("conn", 32), ("download", 1), ("upload", 1)]
NSP_TLS = ("1.3", "1.2")
# Datagrams from so many visitors; not over ssh, which carries none.
UDP, UDP_VISITORS = "udp", 4
SPARE_DESCRIPTORS = 64


def work_name(mode, connections):
    return f"{mode}-{connections}"


WORKS = [work_name(*load) for load in LOADS] + [MEMORY, UDP, NSP]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=pathlib.Path, required=True, help="the load generator")
    parser.add_argument("--nsp-client", type=pathlib.Path, required=True, help="the NSP client")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder with Postern's programs")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder for results.json and table.md")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement (default: 5)")
    parser.add_argument("--visitors", type=int, default=3000, help="idle visitors (default: 3000)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--only", nargs="+", metavar="WORK", choices=WORKS, help="of " + ", ".join(WORKS))
    parser.add_argument("--ssh-ciphers", metavar="LIST", help="ssh's option Ciphers (default: its own)")
    parser.add_argument("--ssh-session", action="store_true",
                        help="ssh with a session beside the tunnel in place of -N: only then sshd sets TCP_NODELAY")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    if options.rounds < 1 or options.seconds <= 0 or options.visitors < 1:
        parser.error("--rounds, --seconds and --visitors are above zero")
    return options


class Bench:
    """The contenders and what was measured. `results` and `nsp_results` are {work: {contender: [result of each
    round]}}; the agent of Postern is the first of `nsp_contenders`."""

    def __init__(self, options, load, contenders, nsp_contenders):
        self.options, self.load = options, load
        self.contenders, self.nsp_contenders = contenders, nsp_contenders
        self.results, self.nsp_results, self.problems = {}, {}, []
        self.udp_contenders = [c for c in contenders if c.name in ("loopback", "postern")]
        members = {"load": contenders, UDP: self.udp_contenders, "memory": contenders[1:], NSP: nsp_contenders}
        self._orders = {name: itertools.cycle(itertools.permutations(members[name])) for name in members}

    def measure(self):
        wanted = self.options.only or WORKS
        loads = [load for load in LOADS if work_name(*load) in wanted]
        rounds = range(1, self.options.rounds + 1)
        try:
            if MEMORY in wanted:
                for round_number in rounds:
                    self._memory_round(round_number)
            if loads:
                self._start_all(self.contenders)
                for round_number in rounds:
                    self._load_round(round_number, loads)
                self._stop_all(self.contenders)
            if UDP in wanted:
                self._start_all(self.udp_contenders)
                for round_number in rounds:
                    self._udp_round(round_number)
                self._stop_all(self.udp_contenders)
            if NSP in wanted:
                self._start_all(self.nsp_contenders)
                for round_number in rounds:
                    self._nsp_round(round_number)
        finally:
            self._stop_all(self.contenders + self.nsp_contenders)

    def _load_round(self, round_number, loads):
        for mode, connections in loads:
            for contender in next(self._orders["load"]):
                result, rate = self._load_of(contender, mode, connections)
                self._note(self.results, round_number, work_name(mode, connections), contender, result, rate)

    def _load_of(self, contender, mode, connections):
        result = self.load.measure(mode, contender.port, connections, self.options.seconds)
        contender.check()
        return result, f"{result['mb_per_s']:,.1f} MB/s" if result["mb_per_s"] else f"{result['per_s']:,.0f}/s"

    def _udp_round(self, round_number):
        for contender in next(self._orders[UDP]):
            result = self.load.measure(UDP, contender.udp_port, UDP_VISITORS, self.options.seconds)
            contender.check()
            self._note(self.results, round_number, UDP, contender, result,
                       f"{result['datagrams_per_s']:,.0f}/s, {result['lost_percent']:.2f} % lost")

    def _nsp_round(self, round_number):
        agent = self.nsp_contenders[0]
        for mode, connections in NSP_LOADS:
            for contender in next(self._orders[NSP]):
                if contender is not agent:
                    contender.report()  # begins a new one
                result, rate = self._load_of(contender, mode, connections)
                if contender is not agent:
                    rate += self._add_report(result, contender.report())
                self._note(self.nsp_results, round_number, f"{NSP}-{work_name(mode, connections)}", contender, result,
                           rate)

    def _add_report(self, result, counted):
        """What the client counted goes into the result: connections for Disconnect, resumptions, errors."""
        result["disconnects_per_s"] = counted["disconnects"] / counted["seconds"]
        result["resumed_percent"] = 100 * counted["resumed"] / max(counted["handshakes"], 1)
        result["client"] = counted
        result["errors"] += counted["errors"]
        result["first_fault"] = result["first_fault"] or counted["first_error"]
        return f", {result['disconnects_per_s']:,.0f} Disconnects/s, {result['resumed_percent']:.1f} % resumed"

    def _memory_round(self, round_number):
        for contender in next(self._orders["memory"]):
            contender.start()
            result = self._memory_of(contender)
            self.problems += contender.stop()
            self._note(self.results, round_number, MEMORY, contender, result,
                       f"gateway {result['gateway']:.2f} KiB, agent {result['agent']:.2f} KiB per visitor")

    def _memory_of(self, contender):
        before = {side: settled_kib(pids) for side, pids in contender.sides().items()}

        def grown():
            return {side: (settled_kib(pids) - before[side]) / self.options.visitors
                    for side, pids in contender.sides().items()}
        per_visitor, result = self.load.hold(contender.port, self.options.visitors, grown)
        contender.check()
        if per_visitor is None:
            raise BenchError(f"{contender.title} did not hold {self.options.visitors} visitors: {result}")
        return result | per_visitor | {"before": before}

    def _note(self, results, round_number, work, contender, result, text):
        results.setdefault(work, {}).setdefault(contender.name, []).append(result)
        if result["errors"]:
            text += f", {result['errors']} ERRORS: {result['faults']} ({result['first_fault']})"
        print(f"round {round_number}  {work:<10}  {contender.title:<13}  {text}", flush=True)

    def _start_all(self, contenders):
        for contender in contenders:
            contender.start()

    def _stop_all(self, contenders):
        for contender in contenders:
            self.problems += contender.stop()


def raise_descriptor_limit(visitors):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = visitors + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(f"{visitors} visitors need {needed} descriptors; the hard limit (ulimit -Hn) is {hard}")


def describe(options):
    """What runs, for the results."""
    return {
        "machine": report.machine(),
        "postern": run([options.bin / "posternd", "--version"]).strip(),
        "openssh": run(["sh", "-c", "ssh -V 2>&1"]).strip(),
        "openssh_how": "with a session open" if options.ssh_session else "-N",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "visitors": options.visitors,
    }


def write_results(options, about, bench):
    """Writes results.json and table.md; returns the text of the latter."""
    titles = {c.name: c.title for c in bench.contenders + bench.nsp_contenders[1:]}
    tables = [report.Table(report.ROWS, bench.results, bench.contenders, "postern", ("ssh", "loopback")),
              report.Table(report.NSP_ROWS, bench.nsp_results, bench.nsp_contenders, "nsp-1.3", ("postern",))]
    about["errors"] = report.errors_of(bench.results, bench.nsp_results)
    machine = about["machine"]
    errors = ", ".join(f"{title} {about['errors'][name]}" for name, title in titles.items() if name in about["errors"])
    text = "\n".join([
        *(table.markdown() for table in tables if table.rows),
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB, {machine['kernel']}, "
        f"{machine['system']}; load before the start {machine['load_before']}.",
        f"{about['postern']}; {about['openssh']}, {about['openssh_how']}, {about['openssh_cipher']}. "
        f"Rounds: {about['rounds']}, {about['seconds']:g} s each; idle visitors: {about['visitors']}.",
        f"Medians of the rounds; a ratio is the median of each round's ratio. Errors: {errors}.",
        ""])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text)
    everything = {"about": about, "rows": [row for table in tables for row in table.rows],
                  "results": bench.results | bench.nsp_results}
    (options.out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    return text


def bench_in(folder, options):
    """Runs it all; returns what was wrong."""
    load = Load(options.load.resolve(), folder)
    target, target_port = load.target()
    try:
        programs, client = options.bin.resolve(), options.nsp_client.resolve()
        ssh = Ssh(folder, target_port, options.ssh_ciphers, options.ssh_session)
        postern = Postern(folder, target_port, programs)
        nsp = [Nsp(folder, target_port, programs, client, version) for version in NSP_TLS]
        about = describe(options)
        bench = Bench(options, load, [Loopback(folder, target_port), ssh, postern], [postern, *nsp])
        bench.measure()
        target.check()
    finally:
        target.stop()
    about["openssh_cipher"] = ssh.cipher or "not run"  # known once it has run
    print("\n" + write_results(options, about, bench))
    return bench.problems + [f"{name}: {errors} errors" for name, errors in about["errors"].items()
                             if errors and name != ssh.name]


def main():
    options = parse_arguments()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postern-bench-"))
    try:
        raise_descriptor_limit(options.visitors)
        problems = bench_in(folder, options)
    except BenchError as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        problems = ["interrupted"]
    if not problems:
        shutil.rmtree(folder)
        return 0
    for problem in problems:
        print(f"bench: {problem}", file=sys.stderr)
    print(f"bench: the logs are kept in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

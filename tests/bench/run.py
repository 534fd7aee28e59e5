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
from contenders import PROJECT, Loopback, Postern, Ssh
from programs import BenchError, Load, private_kib, run, settled_kib

# (mode of the load generator, connections)
LOADS = [("conn", 1), ("conn", 32), ("conn", 256), ("ping", 1), ("ping", 32), ("pump", 4), ("download", 4),
         ("upload", 4)]
MEMORY = "memory"
SPARE_DESCRIPTORS = 64


def work_name(mode, connections):
    return f"{mode}-{connections}"


WORKS = [work_name(*load) for load in LOADS] + [MEMORY]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=pathlib.Path, required=True, help="the load generator")
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
    """The contenders and what was measured. `results` is {work: {contender: [result of each round]}}."""

    def __init__(self, options, load, contenders):
        self.options, self.load, self.contenders = options, load, contenders
        self.results, self.problems = {}, []
        self._orders = {name: itertools.cycle(itertools.permutations(members))
                        for name, members in (("load", contenders), ("memory", contenders[1:]))}

    def measure(self):
        wanted = self.options.only or WORKS
        loads = [load for load in LOADS if work_name(*load) in wanted]
        try:
            for round_number in range(1, self.options.rounds + 1):
                if MEMORY in wanted:
                    self._memory_round(round_number)
            if loads:
                for contender in self.contenders:
                    contender.start()
                for round_number in range(1, self.options.rounds + 1):
                    self._load_round(round_number, loads)
        finally:
            self._stop_all()

    def _load_round(self, round_number, loads):
        for mode, connections in loads:
            for contender in next(self._orders["load"]):
                result = self.load.measure(mode, contender.port, connections, self.options.seconds)
                contender.check()
                rate = f"{result['mb_per_s']:,.1f} MB/s" if result["mb_per_s"] else f"{result['per_s']:,.0f}/s"
                self._note(round_number, work_name(mode, connections), contender, result, rate)

    def _memory_round(self, round_number):
        for contender in next(self._orders["memory"]):
            contender.start()
            result = self._memory_of(contender)
            self.problems += contender.stop()
            self._note(round_number, MEMORY, contender, result,
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

    def _note(self, round_number, work, contender, result, text):
        self.results.setdefault(work, {}).setdefault(contender.name, []).append(result)
        if result["errors"]:
            text += f", {result['errors']} ERRORS: {result['faults']} ({result['first_fault']})"
        print(f"round {round_number}  {work:<10}  {contender.title:<13}  {text}", flush=True)

    def _stop_all(self):
        for contender in self.contenders:
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


def write_results(options, about, bench, titles):
    """Writes results.json and table.md; returns the text of the latter."""
    rows = report.summarise(bench.results)
    about["errors"] = report.errors_of(bench.results)
    machine = about["machine"]
    errors = ", ".join(f"{title} {about['errors'].get(name, 0)}" for name, title in titles.items())
    text = "\n".join([
        report.markdown(rows, titles),
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gib']} GiB, {machine['kernel']}, "
        f"{machine['system']}; load before the start {machine['load_before']}.",
        f"{about['postern']}; {about['openssh']}, {about['openssh_how']}, {about['openssh_cipher']}. "
        f"Rounds: {about['rounds']}, {about['seconds']:g} s each; idle visitors: {about['visitors']}.",
        f"Medians of the rounds; a ratio is the median of each round's ratio. Errors: {errors}.",
        ""])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text)
    (options.out / "results.json").write_text(json.dumps({"about": about, "rows": rows, "results": bench.results},
                                                         indent=1) + "\n")
    return text


def bench_in(folder, options):
    """Runs it all; returns what was wrong."""
    load = Load(options.load.resolve(), folder)
    target, target_port = load.target()
    try:
        ssh = Ssh(folder, target_port, options.ssh_ciphers, options.ssh_session)
        contenders = [Loopback(folder, target_port), ssh, Postern(folder, target_port, options.bin.resolve())]
        about = describe(options)
        bench = Bench(options, load, contenders)
        bench.measure()
        target.check()
    finally:
        target.stop()
    about["openssh_cipher"] = ssh.cipher  # known once it has run
    print("\n" + write_results(options, about, bench, {c.name: c.title for c in contenders}))
    errors = report.errors_of(bench.results)
    return bench.problems + [f"{name}: {errors[name]} errors" for name in ("loopback", "postern") if errors.get(name)]


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

"""What the benchmark says in the end: medians, ratios, the table, and the machine it ran on."""
import os
import pathlib
import platform
import re
import statistics

# Label, work, key of its results, and whether less is better.
ROWS = [
    ("New connections/s, 1 at a time", "conn-1", "per_s", False),
    ("New connections/s, 32 at once", "conn-32", "per_s", False),
    ("New connections/s, 256 at once", "conn-256", "per_s", False),
    ("64-byte round trips/s, 1 connection", "ping-1", "per_s", False),
    ("64-byte round trips/s, 32 connections", "ping-32", "per_s", False),
    ("... of these, median round trip (µs)", "ping-32", "p50_us", True),
    ("... of these, 99th percentile (µs)", "ping-32", "p99_us", True),
    ("Bulk echoed, 4 connections (MB/s each way)", "pump-4", "mb_per_s", False),
    ("Bulk download, 4 connections (MB/s)", "download-4", "mb_per_s", False),
    ("Bulk upload, 4 connections (MB/s)", "upload-4", "mb_per_s", False),
    ("200-byte datagrams/s to the target", "udp", "datagrams_per_s", False),
    ("Memory per idle visitor, gateway (KiB)", "memory", "gateway", True),
    ("Memory per idle visitor, agent (KiB)", "memory", "agent", True),
]
NSP_ROWS = [
    ("New connections/s, 32 at once", "nsp-conn-32", "per_s", False),
    ("... median time of one (µs)", "nsp-conn-32", "p50_us", True),
    ("... Disconnect connections/s beside them", "nsp-conn-32", "disconnects_per_s", False),
    ("... TLS handshakes resumed (%)", "nsp-conn-32", "resumed_percent", False),
    ("Bulk download, 1 connection (MB/s)", "nsp-download-1", "mb_per_s", False),
    ("Bulk upload, 1 connection (MB/s)", "nsp-upload-1", "mb_per_s", False),
]


class Table:
    """Medians and ratios of what was measured. `results` is {work: {contender: [result of each round]}}; the ratios are
    those of the contender `subject` to each of `rivals`."""

    def __init__(self, rows, results, contenders, subject, rivals):
        self._titles = {contender.name: contender.title for contender in contenders}
        self._subject, self._rivals = subject, rivals
        self.rows = [self._row(label, results[work], work, key, less)
                     for label, work, key, less in rows if work in results]

    def _row(self, label, by_contender, work, key, less_is_better):
        values = {name: [result[key] for result in rounds] for name, rounds in by_contender.items()
                  if key in rounds[0]}
        ratios = {rival: statistics.median(map(_ratio, values[self._subject], values[rival]))
                  for rival in self._rivals if rival in values}
        return {"label": label, "work": work, "key": key, "less_is_better": less_is_better,
                "medians": {name: statistics.median(rounds) for name, rounds in values.items()},
                "rounds": values, "ratios": ratios}

    def markdown(self):
        head = ["", *self._titles.values(),
                *(f"{self._titles[self._subject]} / {self._titles[rival]}" for rival in self._rivals)]
        body = [[row["label"], *(_number(row["medians"].get(name)) for name in self._titles),
                 *(_number(row["ratios"].get(rival)) for rival in self._rivals)] for row in self.rows]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
        aligned = [_line(head, widths), "| " + " | ".join(rule) + " |", *(_line(line, widths) for line in body)]
        return "\n".join(aligned) + "\n"


def _ratio(value, other):
    return value / other if other else float("nan")


def errors_of(*results):
    """{contender: errors of all its runs}."""
    sums = {}
    for by_contender in (by_contender for each in results for by_contender in each.values()):
        for name, rounds in by_contender.items():
            sums[name] = sums.get(name, 0) + sum(result["errors"] for result in rounds)
    return sums


def _line(cells, widths):
    return "| " + " | ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) + " |"


def _number(value):
    if value is None:
        return ""
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{decimals}f}"


def machine():
    """What the figures depend on, without the names of hosts and folders."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _first_match("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
        "memory_gib": round(int(_first_match("/proc/meminfo", r"^MemTotal:\s*(\d+) kB$")) / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _first_match("/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)"?$') or "unknown",
        "load_before": round(os.getloadavg()[0], 2),
    }


def _first_match(path, pattern):
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found and found[1].strip()

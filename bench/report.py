"""Tables for people and for docs/performance.md.

Main functions: :func:`peer_tables`, :func:`mode_table`; ``bench.targets`` judges what they show.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Ratio, paired_ratio
from bench.measuring import Measurement
from bench.modes import Row, figures_of


@dataclass(frozen=True)
class Duel:
    """Understudy and one peer in turn, at one number of connections.

    Attributes:
        group: Settings of one system.
        ours, theirs: One measurement per round.
    """

    peer: str
    group: str
    is_limit: bool
    connections: int
    ours: list[Measurement]
    theirs: list[Measurement]

    def ratio(self, figure: str, *, inverse: bool = False) -> Ratio | None:
        """Return how many times ours is theirs (or theirs ours); None when either had errors."""
        if any(one.errors for one in self.ours + self.theirs):
            return None
        ours = [float(getattr(one, figure)) for one in self.ours]
        theirs = [float(getattr(one, figure)) for one in self.theirs]
        return paired_ratio(theirs, ours) if inverse else paired_ratio(ours, theirs)


def peer_tables(duels: Sequence[Duel], missing: dict[str, str]) -> str:
    """Render a table per number of connections; who could not be measured is named."""
    parts = []
    for connections in sorted({duel.connections for duel in duels}):
        some = [duel for duel in duels if duel.connections == connections]
        ours = figures_of([one for duel in some for one in duel.ours])
        rows = [_peer_row("**Understudy**", ours, "1", "1", "")]
        for duel in sorted(some, key=lambda one: -(figures_of(one.theirs)["per_s"] or 0.0)):
            theirs = figures_of(duel.theirs)
            per_s = "limit" if duel.is_limit else str(duel.ratio("per_s") or "—")
            cpu = "limit" if duel.is_limit else str(duel.ratio("cpu_us", inverse=True) or "—")
            rows.append(_peer_row(duel.peer, theirs, per_s, cpu, _errors(theirs["errors"])))
        head = [
            "server", "req/s", "Understudy is × (low–high)", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs/req",
            "its CPU is ×", "RSS MB", "errors",
        ]  # fmt: skip
        parts.append(f"### {connections} connection{'s' * (connections > 1)}\n\n{table(head, rows)}")
    if missing:
        rows = [[name, reason] for name, reason in missing.items()]
        parts.append("### Not measured\n\n" + table(["server", "why"], rows))
    return "\n\n".join(parts)


def _peer_row(name: str, figures: dict[str, Any], per_s: str, cpu: str, errors: str) -> list[str]:
    return [
        name,
        f"{figures['per_s']:,.0f}",
        per_s,
        *(f"{figures[which] / 1000:.2f}" for which in ("p50_us", "p99_us", "p999_us")),
        f"{figures['cpu_us']:.0f}",
        cpu,
        f"{figures['rss_bytes'] / 1e6:.0f}",
        errors or "0",
    ]


def mode_table(rows: Sequence[Row]) -> str:
    """Render what was measured of Understudy alone."""
    lines = []
    for row in rows:
        figures = row.figures
        if "per_s" not in figures:  # a cross-check, or nothing measured: the note says all
            lines.append([row.mode, row.setting, "", "", "", "", "", row.note])
            continue
        roles = figures["cpu_us_by_role"]
        cpu = f"{figures['cpu_us']:.0f}"
        if "router" in roles:
            cpu += f" (router {roles['router']:.0f})"
        lines.append(
            [
                row.mode,
                row.setting,
                f"{figures['per_s']:,.0f}",
                f"{figures['p50_us'] / 1000:.2f}",
                f"{figures['p99_us'] / 1000:.2f}",
                cpu,
                _errors(figures["errors"]) or "0",
                row.note,
            ]
        )
    return table(["mode", "setting", "req/s", "p50 ms", "p99 ms", "CPU µs/req", "errors", "note"], lines)


def machine() -> dict[str, str]:
    """Describe where this was measured."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_kb / 1e6:.0f} GB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Return the mean number of runnable processes of the last minute."""
    return os.getloadavg()[0]


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(errors.items()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render Markdown whose columns line up on a terminal too."""
    widths = [max(len(line[at]) for line in [head, *rows]) for at in range(len(head))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(head, widths, strict=True)) + " |"]
    lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join(lines)

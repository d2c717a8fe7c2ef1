"""What must hold, and whether it does: every target against what this run measured.

Owns the numbers of the targets.  Refuses to leave one out: what was not measured says so.
Main function: :func:`target_table`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Ratio, median
from bench.modes import MILLION, Row
from bench.report import Duel, table

FLAT = 1.10  # what a cost may grow by and still be called flat


@dataclass(frozen=True)
class AgainstPeer:
    """At least (or at most) so many times a peer at the better of its settings.

    Attributes:
        group: Empty for every peer.
    """

    text: str
    group: str
    connections: int
    figure: str
    bound: float
    at_least: bool = True


AGAINST_PEERS = (
    *(
        AgainstPeer(f"req/s ≥ {bound:g} × {name}", group, 16, "per_s", bound)
        for group, name, bound in (
            ("mosec", "mosec", 4), ("FastAPI 1", "FastAPI 1", 10), ("nginx split", "nginx split", 5),
            ("LitServe", "LitServe", 15), ("MLServer", "MLServer", 15), ("BentoML", "BentoML", 25),
            ("Ray Serve", "Ray Serve by its own proxy (its default)", 60),
            ("Ray Serve HAProxy", "Ray Serve by HAProxy (opt-in)", 60),
        )
    ),
    AgainstPeer("req/s ≥ 2 × mosec", "mosec", 64, "per_s", 2),
    AgainstPeer("req/s ≥ 12 × FastAPI 1", "FastAPI 1", 64, "per_s", 12),
    AgainstPeer("p99 below every peer's", "", 64, "p99_us", 1, at_least=False),
    AgainstPeer("CPU per request ≤ 1/8 of FastAPI 1", "FastAPI 1", 16, "cpu_us", 1 / 8, at_least=False),
    AgainstPeer("CPU per request ≤ 1/12 of FastAPI 1", "FastAPI 1", 64, "cpu_us", 1 / 12, at_least=False),
    AgainstPeer("p50 ≤ 0.75 × FastAPI 1", "FastAPI 1", 1, "p50_us", 0.75, at_least=False),
)  # fmt: skip


@dataclass(frozen=True)
class OfMode:
    """A bound for a figure of one mode's rows; the worst of them counts.

    Attributes:
        mode: As the rows name it.
        figure: Takes it out of a row's figures; None where the row has none of it.
        setting: Only rows whose setting begins so.
    """

    text: str
    mode: str
    figure: Callable[[dict[str, Any]], float | None]
    bound: float
    at_least: bool
    setting: str = ""
    unit: str = ""


def _ratio(name: str) -> Callable[[dict[str, Any]], float | None]:
    def figure(figures: dict[str, Any]) -> float | None:
        found = figures.get(name)
        return None if found is None else float(found["median"])

    return figure


def _plain(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda figures: figures.get(name)


def _router_us(figures: dict[str, Any]) -> float | None:
    value: float | None = figures.get("cpu_us_by_role", {}).get("router")
    return value


def _errors(figures: dict[str, Any]) -> float | None:
    return float(sum(figures["errors"].values())) if "errors" in figures else None


def _after_a_million(figures: dict[str, Any]) -> float | None:
    return _ratio("ratio_cpu")(figures) if figures.get("served", 0) >= MILLION else None


def _refusals_ms(figures: dict[str, Any]) -> float | None:
    return figures["refused"]["p99_us"] / 1000.0 if "refused" in figures else None


def _p99_over(allowed: float) -> Callable[[dict[str, Any]], float | None]:
    """Give by how many milliseconds p99 is above the base's; 0 within ``allowed`` times it."""

    def figure(figures: dict[str, Any]) -> float | None:
        ratio = figures.get("ratio_p99")
        if ratio is None:
            return None
        return 0.0 if ratio["median"] <= allowed else float(figures["p99_excess_us"]) / 1000.0

    return figure


OF_MODES = (
    OfMode("router's CPU ≤ 20 µs, unsigned boto3", "signatures", _router_us, 20, False, "boto3", " µs"),
    OfMode("router's CPU ≤ 45 µs, signed boto3", "signatures", _router_us, 45, False, "signed", " µs"),
    OfMode("A/B 50/50: req/s ≥ 0.9 × one variant", "A/B", _ratio("ratio_per_s"), 0.9, True),
    OfMode("capture 100 %: req/s ≥ 0.9 × none", "capture", _ratio("ratio_per_s"), 0.9, True),
    OfMode(
        "A/B + shadow + capture: req/s ≥ 6 × nginx mirror", "together", _ratio("ratio_per_s"), 6, True
    ),
    OfMode("sick shadow: req/s ≥ 0.9 × none", "sick shadow", _ratio("ratio_per_s"), 0.9, True, "shadow"),
    OfMode(
        "sick shadow, half of capacity: p99 + ≤ 5 % or 0.5 ms", "sick shadow, 50 % of capacity",
        _p99_over(1.05), 0.5, False, "shadow", " ms",
    ),
    OfMode(
        "busy shadow, a tenth of capacity: p99 + ≤ 15 % or 1 ms", "busy shadow, 10 % of capacity",
        _p99_over(1.15), 1.0, False, "shadow", " ms",
    ),
    OfMode("sick shadow: errors", "sick shadow", _errors, 0, False, "shadow"),
    OfMode(f"1 variant to many: CPU ≤ {FLAT:g} ×", "variants", _ratio("ratio_cpu"), FLAT, False),
    OfMode(f"1 endpoint to 1,000: CPU ≤ {FLAT:g} ×", "endpoints", _ratio("ratio_cpu"), FLAT, False),
    OfMode(f"1 request to 1,000,000: CPU ≤ {FLAT:g} ×", "served", _after_a_million, FLAT, False),
    OfMode("3 × capacity: goodput ≥ 0.9 of the peak", "overload", _plain("goodput_fraction"), 0.9, True),
    OfMode("3 × capacity: refusals' p99 ≤ 50 ms", "overload", _refusals_ms, 50, False, unit=" ms"),
    OfMode("3 × capacity: control API < 1 s", "overload", _plain("control_p99_ms"), 1000, False, unit=" ms"),
    OfMode("256 KB and 6 MB bodies: errors (byte-exact)", "bodies", _errors, 0, False),
    OfMode("2,000 idle and slow connections: req/s ≥ 0.9 ×", "crowd", _ratio("ratio_per_s"), 0.9, True),
)  # fmt: skip


def target_table(duels: Sequence[Duel], rows: Sequence[Row], soaks: Path) -> str:
    """Judge all targets.

    Args:
        soaks: Where ``make soak`` leaves its reports: the newest one counts.
    """
    lines = [_against_peer(target, duels) for target in AGAINST_PEERS]
    lines += [_of_mode(target, rows) for target in OF_MODES]
    lines.append(_of_soak(soaks))
    return table(["target", "connections", "measured (low–high)", ""], lines)


def _against_peer(target: AgainstPeer, duels: Sequence[Duel]) -> list[str]:
    ratios: dict[str, Ratio] = {}
    for duel in duels:
        wanted = not duel.is_limit if not target.group else duel.group == target.group
        if wanted and duel.connections == target.connections:
            ratio = duel.ratio(target.figure)
            if ratio is not None:
                ratios[duel.peer] = ratio
    if not ratios:
        return [target.text, str(target.connections), "not measured", ""]
    # The peer's better setting is where we look worse.
    choose = min if target.at_least else max
    worst = choose(ratios, key=lambda peer: ratios[peer].median)
    ratio = ratios[worst]
    shown = str(ratio) if target.group else f"{ratio}, of {len(ratios)} the nearest: {worst}"
    met = ratio.median >= target.bound if target.at_least else ratio.median <= target.bound
    if not target.group:
        met = ratio.median < target.bound
    if not met and target.figure == "per_s":
        shown += _beyond_the_limit(target, worst, duels)
    return [target.text, str(target.connections), shown, _said(met)]


def _beyond_the_limit(target: AgainstPeer, peer: str, duels: Sequence[Duel]) -> str:
    """Say so where so many times a peer is more than a limit gives, which does no work at all."""
    theirs = {
        one.peer: median([round_.per_s for round_ in one.theirs])
        for one in duels
        if one.connections == target.connections
    }
    limits = [one.peer for one in duels if one.is_limit and one.peer in theirs]
    its, most = theirs[peer], theirs[limits[0]] if limits else None
    if its is None or most is None:
        return ""
    wanted = target.bound * its
    return f"; that is {wanted:,.0f}/s, and {limits[0]} gives {most:,.0f}/s" if wanted > most else ""


def _of_mode(target: OfMode, rows: Sequence[Row]) -> list[str]:
    found = [
        (value, row.setting)
        for row in rows
        if row.mode == target.mode and row.setting.startswith(target.setting)
        if (value := target.figure(row.figures)) is not None
    ]
    if not found:
        return [target.text, "", "not measured", ""]
    value, setting = (min if target.at_least else max)(found)
    met = value >= target.bound if target.at_least else value <= target.bound
    return [target.text, "", f"{value:.2f}{target.unit} ({setting})", _said(met)]


def _of_soak(soaks: Path) -> list[str]:
    text = "memory flat over ten minutes (`make soak`)"
    reports = sorted(soaks.glob("soak-*.json"))
    if not reports:
        return [text, "", "not measured", ""]
    facts = json.loads(reports[-1].read_text())
    when = reports[-1].stem.removeprefix("soak-")
    rising = [role for role, verdict in facts["verdicts"].items() if not verdict["flat"]]
    shown = f"{facts['minutes']:g} minutes at {when}: " + (f"{', '.join(rising)} rises" if rising else "flat")
    if facts["minutes"] < 10:
        return [text, "", shown, "too short to tell"]
    return [text, "", shown, _said(not rising)]


def _said(met: bool) -> str:
    return "met" if met else "**missed**"

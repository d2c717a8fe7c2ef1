"""``make bench``: everything in turn, a table at the end, nothing shown when any answer was wrong.

Owns the order: per peer, Understudy and the peer alternate round by round (A B A B …) at each number of
connections, with Understudy up all the time and one peer at a time; then the modes of Understudy alone.
Main function: :func:`main`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import report
from bench.catalogue import MODES, run_mode
from bench.contestants import PEERS, Peer, Started, start_peer
from bench.environments import PEERS as PEERS_FOLDER
from bench.environments import ROOT, NotInstalled, environment_of, versions_of
from bench.figures import paired_ratio
from bench.loadgen.engine import Load
from bench.measuring import WrongAnswer, measure
from bench.modes import Bench, Row, Schedule, at_part_of_capacity, figures_of
from bench.processes import StartFailed
from bench.progress import Progress
from bench.report import Duel
from bench.targets import target_table
from bench.understudy import Understudy, Variant
from bench.work import Work, prepare
from bench.wrk import has_wrk, run_wrk

RESULTS = ROOT / "bench" / "results"
FULL = Schedule(rounds=4, seconds=2.0, warm_up_s=1.0, connections=(16, 64), edges=(1, 256), many=10)
QUICK = Schedule(
    rounds=2, seconds=0.5, warm_up_s=0.2, connections=(16, 64), edges=(), many=10, served=100_000
)
EDGE_ROUNDS = 2  # at the numbers of connections that no target but one is about
# One connection matters against whoever calls the booster in its own process.
ALSO_ALONE = "FastAPI 1"
# Settings that are not the peer's better one, peers and modes that no target is about.
NOT_IN_QUICK = (
    "FastAPI + uvicorn, 2 workers", "granian RSGI", "mosec, no batching", "LitServe, fast queue",
    "MLServer, batch 64 wait 1 ms", "nginx mirror, 2 uvicorn", "shadow", "sick",
)  # fmt: skip
QUICK_BUDGET_S = 255.0  # a quick run begins nothing after it, so that it is over within five minutes
WRK_AGAINST = ("FastAPI 1", "mosec", "nginx split", "nginx return")
BUSY_LOAD = 0.5


def main(argv: list[str]) -> int:
    """Measure.

    Returns:
        0; 1 when an answer was wrong (no table is shown then).
    """
    options = _parse(argv)
    schedule = QUICK if options.quick else FULL
    started_s = time.monotonic()

    def left_out(name: str) -> str:
        if options.quick and name in NOT_IN_QUICK:
            return "not in the quick run"
        if options.quick and time.monotonic() - started_s > QUICK_BUDGET_S:
            return "no time was left for it in the quick run"
        return ""

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started_s:5.0f} s] {text}", flush=True)

    load_before = report.load_average()
    if load_before > BUSY_LOAD:
        say(f"warning: the machine is busy (load {load_before:.1f}): only ratios mean anything, and less")
    say("preparing the model")
    work = prepare()
    progress = Progress(schedule, resume=options.resume)
    if progress.done:
        say(f"going on after: {', '.join(progress.done)}")
    limits: dict[str, Any] = {}
    server = None
    try:
        if "bare" in options.parts:
            limits["bare model loop"] = _bare_loop(work, schedule)
            say(f"bare model loop: {limits['bare model loop']['rows_per_s']:,.0f} rows/s")
        server = Understudy()
        server.create_churn_model("churn", work)
        server.deploy("one", Variant("A", "churn"))
        ours = server.started(work.plan("csv", "/endpoints/one/invocations"))
        measure(ours, Load("", 0, 16, schedule.seconds, schedule.warm_up_s))
        say(f"Understudy serves; one model, {work.source}")
        if "peers" in options.parts:
            _measure_peers(options, work, schedule, ours, progress, left_out, say)
        if "modes" in options.parts:
            _measure_modes(options, Bench(server, work, schedule, say), progress, left_out)
    except WrongAnswer as wrong:
        print(f"\nREFUSED: a wrong answer, so no table.\n{wrong}", file=sys.stderr)
        return 1
    finally:
        if server is not None:
            server.stop()
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "load_before": load_before,
        "quick": options.quick,
        "schedule": vars(schedule),
        "versions": _versions(),
        "rows_from": work.source,
        "limits": limits,
    }
    text = _document(facts, progress)
    path = _write(facts, progress, text)
    progress.forget()
    print("\n" + text)
    say(f"written: {path.relative_to(ROOT)} and {path.with_suffix('.md').relative_to(ROOT)}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter run of under five minutes")
    parser.add_argument("--resume", action="store_true", help="go on with a full run that was cut short")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--modes", default="", help="comma-joined: " + ",".join(MODES))
    parser.add_argument(
        "--parts", default="bare,peers,modes", type=lambda text: text.split(","), help="bare,peers,modes"
    )
    return parser.parse_args(argv)


def _measure_peers(
    options: argparse.Namespace,
    work: Work,
    schedule: Schedule,
    ours: Started,
    progress: Progress,
    left_out: Callable[[str], str],
    say: Callable[[str], None],
) -> None:
    """Measure what is asked for and not done yet; name the others with the reason."""
    for peer in PEERS:
        if options.only and options.only.lower() not in peer.name.lower():
            progress.missing[peer.name] = f"left out by --only {options.only}"
        elif peer.name in progress.done:
            continue
        elif not options.only and (why := left_out(peer.name)):
            progress.missing[peer.name] = why
        else:
            _duel(peer, work, schedule, ours, progress, say)
            progress.finish(peer.name)


def _measure_modes(
    options: argparse.Namespace, bench: Bench, progress: Progress, left_out: Callable[[str], str]
) -> None:
    """Do the same with the modes of Understudy alone."""
    asked = options.modes.split(",") if options.modes else []
    for name in MODES:
        if name in progress.done or (asked and name not in asked):
            continue
        if not asked and (why := left_out(name)):
            progress.rows.append(Row(name, "", {}, f"not measured: {why}"))
        else:
            progress.rows += run_mode(name, bench)
            progress.finish(name)


def _duel(
    peer: Peer,
    work: Work,
    schedule: Schedule,
    ours: Started,
    progress: Progress,
    say: Any,
) -> None:
    """Measure Understudy and a peer in turn."""
    try:
        theirs = start_peer(peer, work)
    except (NotInstalled, StartFailed) as error:
        progress.missing[peer.name] = " ".join(str(error).split())[-300:]
        say(f"{peer.name}: NOT MEASURED: {progress.missing[peer.name]}")
        return
    try:
        edges = schedule.edges
        if peer.group == ALSO_ALONE and 1 not in edges:
            edges = (1, *edges)
        counts = sorted({*schedule.connections, *edges})
        mine = {count: Duel(peer.name, peer.group, peer.is_limit, count, [], []) for count in counts}
        for number in range(schedule.rounds):
            for count, duel in mine.items():
                if number < EDGE_ROUNDS or count not in edges:
                    duel.ours.append(measure(ours, schedule.load(count)))
                    duel.theirs.append(measure(theirs, schedule.load(count)))
        if schedule is FULL and has_wrk() and peer.group in WRK_AGAINST:
            for count in (16, 64):
                progress.rows.append(_cross_check(peer, ours, theirs, count, schedule))
        if schedule is FULL and not peer.is_limit:
            progress.rows += at_part_of_capacity(schedule, theirs, f"open loop, {peer.name}")
    finally:
        theirs.stop()
    progress.duels += mine.values()
    summary = ", ".join(
        f"{count}: {figures_of(duel.theirs)['per_s']:,.0f}/s (×{duel.ratio('per_s') or ' errors'})"
        for count, duel in mine.items()
    )
    say(f"{peer.name}: {summary}")


def _cross_check(peer: Peer, ours: Started, theirs: Started, connections: int, schedule: Schedule) -> Row:
    """Compare by wrk as well: written in C, it takes less of the machine than our own generator."""
    mine, other = [], []
    for _ in range(2):
        mine.append(run_wrk(ours, connections, schedule.seconds))
        other.append(run_wrk(theirs, connections, schedule.seconds))
    ratio = paired_ratio([one["per_s"] for one in mine], [one["per_s"] for one in other])
    figures = {"understudy": mine, "peer": other, "ratio_per_s": None if ratio is None else vars(ratio)}
    faults = sum(one["faults"] for one in mine + other)
    note = (
        f"Understudy {mine[-1]['per_s']:,.0f}/s, it {other[-1]['per_s']:,.0f}/s: × {ratio}; {faults} errors"
    )
    return Row("wrk", f"{peer.name}, {connections} connections", figures, note)


def _bare_loop(work: Work, schedule: Schedule) -> dict[str, float]:
    """Measure the model without a server."""
    python = environment_of("bare_loop")
    program = PEERS_FOLDER / "bare_loop" / "loop.py"
    done = subprocess.run(
        [str(python), str(program), str(work.folder / "work.json"), str(schedule.seconds)],
        env={
            "PYTHONPATH": str(PEERS_FOLDER / "shared"),
            "MODEL_PATH": str(work.model),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise WrongAnswer(f"bare model loop: {done.stderr[-500:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _versions() -> dict[str, str]:
    """Name what was measured."""
    found = {"understudy": version("understudy-ml")}
    names = (
        "xgboost-cpu", "numpy", "fastapi", "uvicorn", "granian", "mosec", "litserve", "mlserver", "bentoml",
        "ray",
    )  # fmt: skip
    for folder in sorted({peer.folder for peer in PEERS}):
        pinned = versions_of(folder)
        found |= {name: pinned[name] for name in names if name in pinned}
    try:
        done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = done.stderr.strip().rpartition("/")[2]
    except FileNotFoundError:
        found["nginx"] = "not installed"
    return found


def _document(facts: dict[str, Any], progress: Progress) -> str:
    """Write the report as Markdown."""
    machine = facts["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    parts = []
    parts.append(
        f"Measured {facts['date']}: {machine['cores']} cores ({machine['cpu']}), {machine['memory']}, kernel "
        f"{machine['kernel']}, Python {machine['python']}; load before the run {facts['load_before']:.1f}; "
        f"{facts['schedule']['rounds']} rounds of {facts['schedule']['seconds']:g} s"
        f"{' (QUICK)' if facts['quick'] else ''}. {versions}."
    )
    if progress.duels or progress.missing:
        parts += ["## Against peers", report.peer_tables(progress.duels, progress.missing)]
    for name, figures in facts["limits"].items():
        parts.append(
            f"Limit, {name}: {figures['rows_per_s']:,.0f} rows/s one at a time (p50 {figures['p50_us']:.0f} "
            f"µs, p99 {figures['p99_us']:.0f} µs), {figures['rows_per_s_by_64']:,.0f} rows/s by 64."
        )
    if progress.rows:
        parts += ["## Understudy alone", report.mode_table(progress.rows)]
    parts += ["## Targets", target_table(progress.duels, progress.rows, RESULTS)]
    return "\n\n".join(parts)


def _write(facts: dict[str, Any], progress: Progress, text: str) -> Path:
    """Keep everything, single rounds included."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{facts['date'].replace(':', '').replace('+0000', 'Z')}.json"
    whole = {
        **facts,
        "peers": [
            {
                **vars(duel),
                "ours": [one.as_json() for one in duel.ours],
                "theirs": [one.as_json() for one in duel.theirs],
            }
            for duel in progress.duels
        ],
        "not_measured": progress.missing,
        "modes": [vars(row) for row in progress.rows],
    }
    path.write_text(json.dumps(whole, indent=1))
    path.with_suffix(".md").write_text(text + "\n")
    return path

"""Run every scenario at full size and write docs/decision-bench.md.

Main function: :func:`main`.  ``--quick`` draws a tenth of the streams and prints only.
"""

from __future__ import annotations

import argparse
import datetime
import math
import time
from pathlib import Path

import numpy as np

from bench.decisions import scenarios
from bench.decisions.scenarios import (
    alarms,
    canary_counts,
    detection,
    diffy,
    false_promotion,
    kayenta,
    null_families,
    oracle_for_p99,
    paired,
    paired_null,
    rollback,
    sample_ratio,
    slower,
    three_way,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "decision-bench.md"
RULES = ("Understudy", "z-test, peeked", "GrowthBook formula")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Render Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def met(value: bool) -> str:
    """Say whether a goal is met."""
    return "met" if value else "**missed**"


def nulls(streams: int) -> str:
    """False promotions in every family in which nothing is better."""
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / streams)
    rows = []
    for at, (name, family) in enumerate(null_families().items()):
        found = false_promotion(family, streams, seed=100 + at)
        rows.append(
            (
                name,
                *(f"{found[rule]:.4f}" if rule in found else "–" for rule in RULES),
                met(found["Understudy"] <= bound),
            )
        )
        print(rows[-1], flush=True)
    text = table(("nothing is better", *RULES, f"≤ {bound:.4f}"), rows)
    return (
        f"## False promotions\n\n{streams:,} streams of 20,000 requests (5,000 sticky users; 20,000 users"
        " with heavy tails)."
        " Understudy looks after every request, the others after every hundredth.\n\n" + text
    )


def power(streams: int) -> str:
    """Time to detect, in multiples of a fixed-horizon test that knows both rates."""
    rows = []
    for control, ratio, mde, every in (
        (0.01, 2.0, 2.0, False),
        (0.01, math.sqrt(2.0), 2.0, False),
        (0.01, 4.0, 2.0, False),
        (0.10, 1.1, 1.1, True),
        (0.10, 1.21, 1.1, True),
    ):
        some = max(100, streams // 4) if every and ratio < 1.2 else streams
        found = detection(control, ratio, mde, some, every_request=every)
        bounds = (0.95, 1.8) if ratio == mde else (1.15, 2.1)
        reached = found["median"] <= bounds[0] and found["p80"] <= bounds[1]
        rows.append(
            (
                f"{control:.0%} → {control * ratio:.3g}, MDE {mde:g}",
                f"{found['oracle']:,.0f}",
                f"{found['median']:.2f}",
                f"{found['p80']:.2f}",
                f"≤ {bounds[0]} / {bounds[1]}: {met(reached)}",
            )
        )
        print(rows[-1], flush=True)
    return "## Time to detect\n\n" + table(("rates", "oracle's requests", "median ×", "p80 ×", "goal"), rows)


def latencies(streams: int) -> str:
    """Slower answers."""
    rows = []
    oracle = oracle_for_p99(1.2)
    for name, tail in (("every answer × 1.2", False), ("the slowest 5 % × 1.2", True)):
        found = np.where((places := slower(streams, 1.2, 12_000, tail_only=tail)) > 0, places, np.inf)
        median, p80 = np.quantile(found, (0.5, 0.8), method="inverted_cdf") / oracle
        goal = f"≤ 0.9: {met(median <= 0.9)}" if not tail else "–"
        rows.append((name, f"{oracle:,}", f"{median:.2f}", f"{p80:.2f}", goal))
        print(rows[-1], flush=True)
    wrong = float((slower(streams, 1.0, 20_000) > 0).mean())
    rows.append(
        (
            "no change, 20,000 requests",
            "–",
            f"{wrong:.4f} of streams",
            "–",
            f"≤ 0.05 + 3 SE: {met(_within(wrong, 0.05, streams))}",
        )
    )
    return "## Latency: p99 + 20 %\n\n" + table(
        ("change", "oracle's requests", "median ×", "p80 ×", "goal"), rows
    )


def _within(share: float, alpha: float, streams: int) -> bool:
    return share <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)


def pairs(streams: int) -> str:
    """Shadow tests against A/B tests."""
    rows = []
    for correct, gain, disagreement in ((0.90, 0.01, 0.05), (0.80, 0.02, 0.05), (0.95, 0.005, 0.02)):
        found = paired(streams, correct, gain, disagreement)
        goal = (
            f"≥ 7 × and ≥ 100 ×: {met(found['fewer requests'] >= 7 and found['fewer labels'] >= 100)}"
            if (correct, disagreement) == (0.90, 0.05)
            else "–"
        )
        rows.append(
            (
                f"{correct:.0%} → {correct + gain:.1%}, {disagreement:.0%} disagree",
                f"{found['requests']:,.0f} / {found['unpaired']:,.0f}",
                f"{found['fewer requests']:.1f}",
                f"{found['labels']:,.0f}",
                f"{found['fewer labels']:.0f}",
                goal,
            )
        )
        print(rows[-1], flush=True)
    wrong = paired_null(10 * streams)
    text = table(("accuracy", "requests: shadow / A/B", "fewer ×", "labels", "fewer ×", "goal"), rows)
    return f"## Shadow tests\n\n{text}\n\nFalse promotions of a model that is right as often: {wrong:.4f}."


def canaries(streams: int) -> str:
    """False rollbacks and time to roll back."""
    rows = []
    dice = np.random.default_rng(50)
    for per_minute in (60, 600, 6000):
        for share in (0.05, 0.1, 0.2):
            for outage in (False, True):
                counts = canary_counts(dice, streams, per_minute, share, 10, 1.0, outage=outage)
                ours = float((rollback(counts, share) > 0).mean())
                others = {name: float((at > 0).mean()) for name, at in alarms(counts).items()}
                rows.append(
                    (
                        f"{per_minute}/min, {share:.0%}{', shared outage' if outage else ''}",
                        f"{ours:.4f}",
                        *(f"{one:.3f}" for one in others.values()),
                        f"{kayenta({name: some[:200] for name, some in counts.items()}):.3f}",
                        met(_within(ours, 0.01, streams)),
                    )
                )
                print(rows[-1], flush=True)
    head = ("equal builds, 10 minutes, 1 % errors", "Understudy", *others, "Kayenta", "≤ 1 % + 3 SE")
    wrong = "## False rollbacks\n\n" + table(head, rows)
    found = []
    for guardrails in (1, 2):
        counts = canary_counts(dice, streams, 600, 0.1, 10, 20.0)
        at = rollback(counts, 0.1, needed=100.0 * guardrails)
        errors = np.cumsum(counts["treatment_errors"], axis=1)[np.arange(streams), at - 1]
        found.append(
            (
                str(guardrails),
                f"{np.median(at):.0f} s",
                f"{np.median(errors):.0f}",
                met(np.median(at) <= 40 and np.median(errors) <= 6 and bool((at > 0).all())),
            )
        )
        print(found[-1], flush=True)
    back = "## 20 % errors in a 10 % canary at 600 requests/min\n\n" + table(
        ("guardrails", "median time to rollback", "median failed canary requests", "≤ 40 s, ≤ 6"), found
    )
    ways = []
    for truth, ratio, outage in (
        ("equal", 1.0, False),
        ("equal, shared outage", 1.0, True),
        ("1.5 times the errors", 1.5, False),
        ("2 times", 2.0, False),
        ("3 times", 3.0, False),
    ):
        three = three_way(streams // 2, ratio, outage=outage)
        goal = {
            "equal": "ships ≥ 95 %, median ≤ 18 min: "
            + met(three["ship"] >= 0.95 and three["minutes"] <= 18),
            "2 times": f"ships ≤ 5 %: {met(three['ship'] <= 0.05)}",
        }.get(truth, "–")
        minutes = "–" if math.isinf(three["minutes"]) else f"{three['minutes']:.1f}"
        ways.append(
            (truth, f"{three['ship']:.3f}", minutes, f"{three['rollback']:.3f}", f"{three['hold']:.3f}", goal)
        )
        print(ways[-1], flush=True)
    three_ways = (
        "## Ship, roll back or hold\n\n600 requests/min, 10 % canary, 1 % errors, one hour; harm above a"
        " ratio of 1.1, shipping needs proof of less than 2.\n\n"
        + table(("the canary has", "ship", "minutes (median)", "rollback", "hold", "goal"), ways)
    )
    return "\n\n".join((wrong, back, three_ways))


def ratios(streams: int) -> str:
    """Sample ratio mismatch."""
    wrong = int((sample_ratio(streams, 500_000, 0.5) > 0).sum())
    found = sample_ratio(max(200, streams // 4), 200_000, 0.51)
    median = float(np.median(np.where(found > 0, found, np.inf)))
    rows = [
        (
            "50/50 as planned, 500,000 units",
            f"{wrong} of {streams:,} streams",
            f"≤ 0.2 %: {met(wrong <= 0.002 * streams)}",
        ),
        ("51/49", f"found after {median:,.0f} units (median)", f"≤ 45,000: {met(median <= 45_000)}"),
    ]
    return "## Sample ratio\n\nα = 0.001, looked at after every 100 units.\n\n" + table(
        ("truth", "found", "goal"), rows
    )


def noise(streams: int) -> str:
    """Differences above noise."""
    rows = []
    for requests in (1_000, 5_000, 20_000):
        found = diffy(streams, requests, 50, 0.02, 0.01)
        rows.append((f"{requests:,}", *(f"{found[key]:.3f}" for key in found)))
    return (
        "## Differences above noise\n\n50 fields that differ from themselves in 2 % of answers; one has a"
        " point more. Differences and noise are counted on different answers.\n\n"
        + table(
            (
                "requests",
                "Diffy finds it",
                "Diffy names another",
                "Understudy finds it",
                "Understudy names another",
            ),
            rows,
        )
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description=scenarios.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the streams; the page is not written"
    )
    quick = parser.parse_args().quick
    begun = time.monotonic()
    part = 10 if quick else 1
    parts = [
        nulls(2_000 // part),
        power(400 if quick else 1_000),  # of a hundred the 80 % quantile is a throw of dice
        latencies(1_000 // part),
        pairs(1_000 // part),
        canaries(2_000 // part),
        ratios(2_000 // part),
        noise(2_000 // part),
    ]
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    head = (
        "# Decision bench\n\nThe same simulated streams through Understudy's rules and others'. Written by"
        f" `make bench-decisions` on {day}. What the rules are, and why:"
        " [the statistics of verdicts](guides/verdicts-statistics.md).\n\n"
        "What others' rules are here: GrowthBook's interval by its formula with default tuning, on pooled"
        " counts (its workflow asks for a new phase when weights change, which the formula does not know of);"
        " Kayenta's"
        " Mann-Whitney rule on error rates per minute, once at the end; alarms as CloudWatch evaluates them,"
        " a period of 60 s. All are simulated here from their published formulas, not run as products."
    )
    text = "\n\n".join([head, *parts]) + "\n"
    print(text if quick else f"{PAGE.name} written", f"({time.monotonic() - begun:.0f} s)")
    if not quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

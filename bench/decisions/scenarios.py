"""The scenarios of the bench, each with its goal: nulls, detection, latency, pairs, canaries, sample ratio.

Every function takes streams to draw and a seed, and returns plain figures; ``__main__`` writes them down, the
tests run them smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.decisions import rivals
from bench.decisions.engines import (
    bet_crossing,
    bet_evidence,
    counted_evidence,
    first_at,
    share_crossing,
)
from bench.decisions.streams import (
    Requests,
    bernoulli,
    delayed_labels,
    drifting,
    even,
    heavy_tails,
    ramped,
    retry_storms,
    sticky_users,
    tied_latencies,
)
from understudy.analysis.evidence import SAMPLE_RATIO, SAMPLE_RATIO_ALPHA
from understudy.analysis.latency import latency_thresholds
from understudy.analysis.planning import sample_for_power
from understudy.analysis.shares import bets_above, bets_within
from understudy.core.metrics import Summary
from understudy.core.policies import EARLY_WEIGHT, LATENCY_LEVELS, LATENCY_MDES, known_rule

Array = np.ndarray[Any, np.dtype[Any]]
PROMOTE = 20.0  # 1 / 0.05
ROLLBACK = 100.0  # 1 / 0.01, one guardrail
LOOKS = 100  # rivals look every so many requests


def _block(streams: int, seed: int, size: int = 500) -> list[tuple[np.random.Generator, int]]:
    """Split streams into blocks with generators of their own, so that memory stays small."""
    sizes = [min(size, streams - start) for start in range(0, streams, size)]
    return [(np.random.default_rng([seed, at]), one) for at, one in enumerate(sizes)]


def _rivals(requests: Requests) -> dict[str, Array]:
    counts = rivals.looked(requests, LOOKS)
    # Nothing is said of a handful: from the third look on.
    z = rivals.z_scores(*counts)[:, 2:]
    return {
        "z-test, peeked": (z > 1.96).any(axis=1),
        "GrowthBook formula": (rivals.growthbook_excludes_zero(*counts) > 0).any(axis=1),
    }


def _by_share(make: Callable[[np.random.Generator, int], Requests], mde: float, every_request: bool) -> Any:
    def family(dice: np.random.Generator, streams: int) -> dict[str, Array]:
        requests = make(dice, streams)
        crossed = share_crossing(
            requests.treated,
            requests.events,
            requests.pi,
            bets_above(1.0, mde),
            PROMOTE,
            every_request=every_request,
        )
        return {"Understudy": crossed > 0, **_rivals(requests)}

    return family


def _users(dice: np.random.Generator, streams: int) -> dict[str, Array]:
    units = sticky_users(dice, streams, 5_000)
    evidence = bet_evidence(
        units.treated, units.values, units.pi, clip=20.0, mde=0.1, denominators=units.requests
    )
    return {"Understudy": (evidence >= PROMOTE).any(axis=1)}


def _tails(dice: np.random.Generator, streams: int) -> dict[str, Array]:
    units = heavy_tails(dice, streams, 20_000)
    return {
        "Understudy": bet_crossing(units.treated, units.values, units.pi, clip=30.0, mde=0.05, needed=PROMOTE)
        > 0
    }


def _labels(dice: np.random.Generator, streams: int) -> dict[str, Array]:
    # After 48 hours 99.97 % of the slower arm's labels are there: a null, to what 20,000 exposures can tell.
    matured, seen = delayed_labels(dice, streams, hours=100, per_hour=200, window_h=48)
    crossed = share_crossing(
        matured.treated, matured.events, matured.pi, bets_above(1.0, 1.1), PROMOTE, every_request=True
    )
    c, t, n_c, n_t = (seen[:, 1:, at] for at in range(4))
    return {
        "Understudy": crossed > 0,
        "z-test, peeked": (rivals.z_scores(c, n_c, t, n_t) > 1.96).any(axis=1),
        "GrowthBook formula": (rivals.growthbook_excludes_zero(c, n_c, t, n_t) > 0).any(axis=1),
    }


def null_families(requests: int = 20_000) -> dict[str, Any]:
    """Return, by name, what draws streams in which nothing is better and says which were promoted."""

    def drawn(shape: str, pi: Array) -> Callable[[np.random.Generator, int], Requests]:
        return lambda dice, streams: bernoulli(dice, streams, drifting(requests, shape), pi)

    flat = even(requests)
    return {
        "stationary 1 %": _by_share(drawn("low", flat), 2.0, False),
        "stationary 10 %": _by_share(drawn("stationary", flat), 1.1, True),
        "sinus 5–15 %": _by_share(drawn("sinus", flat), 1.1, True),
        "trend 8→12 %": _by_share(drawn("trend", flat), 1.1, True),
        "trend 8→12 %, ramp 5/10/25/50 %": _by_share(drawn("trend", ramped(requests)), 1.1, True),
        "trend 12→8 %, ramp": _by_share(drawn("falling", ramped(requests)), 1.1, True),
        "shared outage": _by_share(drawn("outage", flat), 2.0, False),
        "retry storms": _by_share(lambda dice, streams: retry_storms(dice, streams, requests), 2.0, False),
        "ties (latency above a threshold)": _by_share(
            lambda dice, streams: tied_latencies(dice, streams, requests), 1.5, False
        ),
        "rare events 0.05 %": _by_share(drawn("rare", flat), 2.0, False),
        "sticky heavy users": _users,
        "heavy tails (infinite variance)": _tails,
        "labels faster in one arm": _labels,
    }


def false_promotion(family: Any, streams: int, seed: int = 0) -> dict[str, float]:
    """Return, per rule, the share of streams it promoted although nothing was better."""
    totals: dict[str, int] = {}
    for dice, some in _block(streams, seed):
        for rule, promoted in family(dice, some).items():
            totals[rule] = totals.get(rule, 0) + int(promoted.sum())
    return {rule: count / streams for rule, count in totals.items()}


def detection(
    control_rate: float, ratio: float, mde: float, streams: int, *, every_request: bool, seed: int = 1
) -> dict[str, float]:
    """Return median and 80 % quantile of the requests to find an effect, in multiples of the oracle's
    sample."""
    oracle = sample_for_power(control_rate, control_rate * ratio)
    most = int(oracle * 4.5)
    found = [
        share_crossing(
            some.treated, some.events, some.pi, bets_above(1.0, mde), PROMOTE, every_request=every_request
        )
        for dice, count in _block(streams, seed, max(20, 4_000_000 // most))
        for some in [bernoulli(dice, count, np.full(most, control_rate), even(most), ratio)]
    ]
    return {"oracle": float(oracle), **_quantiles(np.concatenate(found), oracle)}


def _quantiles(crossed: Array, unit: float) -> dict[str, float]:
    times = np.where(crossed > 0, crossed.astype(float), np.inf)
    low, high = np.quantile(times, (0.5, 0.8), method="inverted_cdf")
    return {"median": float(low / unit), "p80": float(high / unit)}


def slower(
    streams: int, factor: float, requests: int = 16_000, *, tail_only: bool = False, seed: int = 2
) -> Array:
    """Return the requests after which slower answers are found: the p99 test, and a fifth the early warning.

    Lognormal latencies, sigma 0.5; thresholds are the quantiles of 5,000 answers of the control from before,
    at the edges of the sketch's buckets.
    """
    rule = known_rule("latency_p99")
    assert rule is not None
    found = []
    rows = max(1, 2_000_000 // requests)
    for dice, some in _block(streams, seed, rows):
        treated = dice.random((some, requests)) < 0.5
        latencies = dice.lognormal(9.0, 0.5, (some, requests))
        slow = treated if not tail_only else treated & (latencies > math.exp(9.0 + 0.5 * 1.6449))
        latencies = np.where(slow, latencies * factor, latencies)
        evidence = np.zeros((some, requests))
        thresholds = np.array(
            [latency_thresholds(Summary.of(dice.lognormal(9.0, 0.5, 5_000)), rule) for _ in range(some)]
        )
        mdes = (*LATENCY_MDES, rule.mde)
        weights = (*(EARLY_WEIGHT / len(LATENCY_LEVELS),) * len(LATENCY_LEVELS), 1 - EARLY_WEIGHT)
        for at, (mde, weight) in enumerate(zip(mdes, weights, strict=True)):
            above = latencies > thresholds[:, at : at + 1]
            c, t = np.cumsum(above & ~treated, axis=1), np.cumsum(above & treated, axis=1)
            evidence += weight * counted_evidence(c, t, 0.5, bets_above(1.0, mde))
        found.append(first_at(evidence >= PROMOTE))
    return np.concatenate(found)


def oracle_for_p99(factor: float, *, tail_only: bool = False) -> int:
    """Return the requests of a fixed-horizon test on answers above the true 99 % quantile."""
    z99 = 2.3263
    shifted = z99 - math.log(factor) / 0.5
    beyond = 0.5 * math.erfc(shifted / math.sqrt(2.0))
    if tail_only:
        beyond = min(beyond, 0.05)
    return sample_for_power(0.01, beyond)


def _pairs(streams: int, chance: float, mde: float, disagreements: int, seed: int) -> Array:
    """Return after how many disagreements the evidence suffices; only they move it.

    Args:
        chance: That the new model is the one that is right.
    """
    found = []
    for dice, some in _block(streams, seed, 1_000):
        t = np.cumsum(dice.random((some, disagreements)) < chance, axis=1, dtype=np.int32)
        c = np.arange(1, disagreements + 1, dtype=np.int32) - t
        found.append(first_at(counted_evidence(c, t, 0.5, bets_above(1.0, mde, close=True)) >= PROMOTE))
    return np.concatenate(found)


def paired(
    streams: int, correct: float = 0.90, gain: float = 0.01, disagreement: float = 0.05, seed: int = 3
) -> dict[str, float]:
    """Return the median requests and labels of a shadow test and of an A/B test of the same gain.

    Args:
        streams: Of the A/B test; ten times as many of the shadow test, which is cheap to draw.
    """
    chance = (disagreement + gain) / (2 * disagreement)
    places = _pairs(10 * streams, chance, chance / (1 - chance), 3_000, seed)
    dice = np.random.default_rng([seed, 10**6])
    requests = places + dice.negative_binomial(np.maximum(places, 1), disagreement)
    median = float(np.median(np.where(places > 0, requests, np.inf)))
    # An A/B test of the errors, which are fewer in the treatment: the same bets with the arms exchanged.
    wrong = 1 - correct
    ratio = wrong / (wrong - gain)
    split = detection(wrong - gain, ratio, ratio, streams, every_request=True, seed=seed)
    unpaired = split["median"] * split["oracle"]
    labels = float(np.median(np.where(places > 0, places, np.inf)))
    return {
        "requests": median,
        "unpaired": unpaired,
        "fewer requests": unpaired / median,
        "labels": labels,
        "fewer labels": unpaired / labels,
    }


def paired_null(streams: int, disagreements: int = 1_000, seed: int = 4) -> float:
    """Return the share of shadow tests that promote a model that is right as often."""
    return float((_pairs(streams, 0.5, 1.5, disagreements, seed) > 0).mean())


def canary_counts(
    dice: np.random.Generator,
    streams: int,
    per_minute: int,
    share: float,
    minutes: int,
    ratio: float,
    *,
    outage: bool = False,
    base: float = 0.01,
) -> dict[str, Array]:
    """Draw a canary, second by second: requests and errors of both fleets, shape (streams, seconds)."""
    seconds = minutes * 60
    rate = np.full(seconds, base)
    if outage:  # both fleets, two minutes, at a quarter of the bake
        rate[seconds // 4 : seconds // 4 + 120] += 0.07
    treated = dice.poisson(per_minute / 60 * share, (streams, seconds))
    control = dice.poisson(per_minute / 60 * (1 - share), (streams, seconds))
    return {
        "control": control,
        "treatment": treated,
        "control_errors": dice.binomial(control, rate),
        "treatment_errors": dice.binomial(treated, np.minimum(rate * ratio, 1.0)),
    }


def rollback(
    counts: dict[str, Array], share: float, *, tolerance: float = 1.1, needed: float = ROLLBACK
) -> Array:
    """Return the second in which harm is proven; 0 for never."""
    c, t = np.cumsum(counts["control_errors"], axis=1), np.cumsum(counts["treatment_errors"], axis=1)
    return first_at(counted_evidence(c, t, share, bets_above(tolerance, 3.0)) >= needed)


def ship(counts: dict[str, Array], share: float, margin: float = 2.0) -> Array:
    """Return the second in which "less than twice the errors" is proven; 0 for never."""
    c, t = np.cumsum(counts["control_errors"], axis=1), np.cumsum(counts["treatment_errors"], axis=1)
    return first_at(counted_evidence(c, t, share, bets_within(margin)) >= PROMOTE)


def alarms(counts: dict[str, Array], *, shift: int = 60) -> dict[str, Array]:
    """Ask CloudWatch-like rules about each minute; returns the period of the alarm, 0 for never."""
    streams, seconds = counts["treatment"].shape
    shape = (streams, seconds // shift, shift)
    errors = counts["treatment_errors"].reshape(shape).sum(axis=2)
    requests = counts["treatment"].reshape(shape).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = errors / requests
    return {
        "alarm ≥ 2 %, 1 of 1": rivals.alarm(rates, 0.02, 1, 1),
        "alarm ≥ 5 %, 2 of 3": rivals.alarm(rates, 0.05, 3, 2),
        "AWS notebook (Average ≥ 1)": rivals.alarm(rates, 1.0, 1, 1),
    }


def kayenta(counts: dict[str, Array]) -> float:
    """Return the share of canaries that Kayenta's rule fails after the bake, on error rates per minute."""
    streams, seconds = counts["treatment"].shape
    by_minute = {
        name: one.reshape(streams, seconds // 60, 60).sum(axis=2).astype(float)
        for name, one in counts.items()
    }
    failed = 0
    for at in range(streams):
        control = by_minute["control_errors"][at] / np.maximum(by_minute["control"][at], 1)
        canary = by_minute["treatment_errors"][at] / np.maximum(by_minute["treatment"][at], 1)
        failed += rivals.kayenta_fails(control, canary)
    return failed / streams


def three_way(
    streams: int,
    ratio: float,
    *,
    outage: bool = False,
    per_minute: int = 600,
    share: float = 0.1,
    seed: int = 6,
) -> dict[str, float]:
    """Return how often a canary of an hour is shipped, rolled back and held, and the median minutes to
    ship."""
    shipped, rolled = [], []
    for dice, some in _block(streams, seed, 250):
        counts = canary_counts(dice, some, per_minute, share, 60, ratio, outage=outage)
        back, out = rollback(counts, share).astype(float), ship(counts, share).astype(float)
        back[back == 0], out[out == 0] = np.inf, np.inf
        rolled.append(np.where(back <= out, back, np.inf))
        shipped.append(np.where(out < back, out, np.inf))
    back, out = np.concatenate(rolled), np.concatenate(shipped)
    return {
        "ship": float(np.isfinite(out).mean()),
        "rollback": float(np.isfinite(back).mean()),
        "hold": float((~np.isfinite(out) & ~np.isfinite(back)).mean()),
        "minutes": float(np.median(out[np.isfinite(out)]) / 60) if np.isfinite(out).any() else math.inf,
    }


def sample_ratio(streams: int, units: int, share: float, every: int = 100, seed: int = 7) -> Array:
    """Return the unit at which a sample ratio mismatch is found, planned half and half; 0 for never."""
    found = []
    for dice, some in _block(streams, seed, 200):
        t = np.cumsum(dice.binomial(every, share, (some, units // every)), axis=1)
        c = np.arange(1, units // every + 1) * every - t
        found.append(first_at(counted_evidence(c, t, 0.5, SAMPLE_RATIO) >= 1 / SAMPLE_RATIO_ALPHA) * every)
    return np.concatenate(found)


def diffy(
    streams: int, requests: int, fields: int, noise: float, regression: float, seed: int = 8
) -> dict[str, float]:
    """Return how often the regressed field is found, and how often any other is named, by Diffy's rule and
    ours.

    Args:
        noise: Share of requests in which production differs from itself, per field.
        regression: Added to it in the first field, for the candidate.
    """
    dice = np.random.default_rng(seed)
    raw = dice.binomial(requests, noise, (streams, fields))
    raw[:, 0] = dice.binomial(requests, noise + regression, streams)
    again = dice.binomial(requests, noise, (streams, fields))
    flagged = rivals.diffy_flags(raw, again, requests)
    ours = counted_evidence(again, raw, 0.5, bets_above(1.0, 1.5)) >= fields / 0.05
    return {
        "Diffy finds": float(flagged[:, 0].mean()),
        "Diffy names wrongly": float(flagged[:, 1:].any(axis=1).mean()),
        "Understudy finds": float(ours[:, 0].mean()),
        "Understudy names wrongly": float(ours[:, 1:].any(axis=1).mean()),
    }

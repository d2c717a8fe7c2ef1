"""Understudy's rules over many streams at once, with a look after every request.

The same arithmetic as ``understudy.analysis``, in arrays; tests/analysis/test_decisions_bench.py holds both
to the same numbers.  Every function returns, per stream, the number of requests (units) after which the
evidence first sufficed; 0 for never.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from understudy.analysis.shares import STEPS, WEIGHTS, Bets

Array = np.ndarray[Any, np.dtype[Any]]
_ROWS = 4_000_000  # cells per block: a few hundred MB at most


def first_at(reached: Array) -> Array:
    """Return, per row, the place (from 1) of the first True; 0 for none."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 0)


def share_crossing(
    treated: Array, events: Array, pi: Array, bets: Bets, needed: float, *, every_request: bool = False
) -> Array:
    """The share e-process, looked at after every request.

    Args:
        treated, events: bool, shape (streams, requests).
        pi: Shape (requests,).
        every_request: Bet on requests without the event too.
    """
    streams, requests = treated.shape
    crossed = np.zeros(streams, dtype=np.int64)
    rows = max(1, _ROWS // requests)
    for start in range(0, streams, rows):
        block = slice(start, start + rows)
        crossed[block] = first_at(
            share_evidence(treated[block], events[block], pi, bets, every_request=every_request) >= needed
        )
    return crossed


def share_evidence(
    treated: Array, events: Array, pi: Array, bets: Bets, *, every_request: bool = False
) -> Array:
    """Return the e-values after every request, capped at e^600."""
    requests = treated.shape[1]
    evidence = np.zeros(treated.shape)
    if every_request:
        before = np.cumsum(events, axis=1) - events
        rate = (before + 0.5) / np.arange(1, requests + 1)
    for ratio, weight in zip(bets.ratios, bets.weights, strict=True):
        control = np.log((1 - pi + pi * bets.null) / (1 - pi + pi * ratio))
        steps = np.where(events, control + treated * math.log(ratio / bets.null), 0.0)
        if every_request:
            control_rate = rate / (1 - pi + pi * ratio)
            arm_rate = np.where(treated, ratio * control_rate, control_rate)
            allowed = np.maximum(control_rate, ratio * control_rate) < 0.98
            allowed[:, 0] = False
            with np.errstate(divide="ignore", invalid="ignore"):
                won = np.log1p(-arm_rate) - np.log1p(-rate)
            steps = np.where(~events & allowed, won, steps)
        evidence += weight * np.exp(np.minimum(np.cumsum(steps, axis=1), 600.0))
    return evidence


def counted_evidence(control: Array, treatment: Array, pi: float, bets: Bets) -> Array:
    """Return e-values from running totals of events at one share, capped at e^600."""
    evidence = np.zeros(np.broadcast_shapes(control.shape, treatment.shape))
    for ratio, weight in zip(bets.ratios, bets.weights, strict=True):
        step = math.log((1 - pi + pi * bets.null) / (1 - pi + pi * ratio))
        log = control * step + treatment * (step + math.log(ratio / bets.null))
        evidence += weight * np.exp(np.minimum(log, 600.0))
    return evidence


def bet_crossing(
    treated: Array, values: Array, pi: Array, *, clip: float, mde: float, needed: float
) -> Array:
    """The linear bet that the treatment's mean is larger, looked at after every unit."""
    return first_at(bet_evidence(treated, values, pi, clip=clip, mde=mde) >= needed)


def bet_evidence(
    treated: Array, values: Array, pi: Array, *, clip: float, mde: float, denominators: Array | None = None
) -> Array:
    """Return the e-values of the linear bet after every unit, capped at e^600."""
    units = treated.shape[1]
    past = np.cumsum(values, axis=1) - values
    if denominators is None:
        expected = past / np.maximum(np.arange(units), 1)
    else:
        below = np.cumsum(denominators, axis=1) - denominators
        expected = np.divide(past, below, out=np.zeros(past.shape), where=below > 0) * denominators
    score = np.clip(values - expected, -clip, clip)
    x = np.where(treated, score / pi, -score / (1 - pi))
    squared = np.cumsum(x * x, axis=1) - x * x
    prior = clip**2 / 4 * (1 / pi + 1 / (1 - pi))
    variance = (prior + squared) / np.arange(1, units + 1)
    most = 0.9 / (clip * np.maximum(1 / pi, 1 / (1 - pi)))
    evidence = np.zeros(treated.shape)
    for step, weight in zip(STEPS, WEIGHTS, strict=True):
        logs = np.cumsum(np.log1p(np.minimum(step * mde / variance, most) * x), axis=1)
        evidence += weight / sum(WEIGHTS) * np.exp(np.minimum(logs, 600.0))
    return evidence

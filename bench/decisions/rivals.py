"""What others' rules decide on the same streams.

Owns a z-test looked at often, the sequential test of GrowthBook's ``gbstats`` (formula, default tuning),
alarms on thresholds as CloudWatch has them, Kayenta's rule and Diffy's.
Source: gbstats 0.8.0; Kayenta's MannWhitneyClassifier (confidence 0.98, tolerance 0.25); Diffy's defaults
(relative 20 %, absolute 0.03 %).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.decisions.streams import Requests

Array = np.ndarray[Any, np.dtype[Any]]


def looked(requests: Requests, every: int) -> tuple[Array, Array, Array, Array]:
    """Return running counts at the looks: control events and requests, treatment events and requests."""
    at = np.arange(every - 1, requests.treated.shape[1], every)
    events, treated = requests.events, requests.treated
    return tuple(  # type: ignore[return-value]
        np.cumsum(some, axis=1, dtype=np.int32)[:, at]
        for some in (events & ~treated, ~treated, events & treated, treated)
    )


def z_scores(c: Array, n_c: Array, t: Array, n_t: Array) -> Array:
    """Return z of the pooled test of two proportions; 0 where it is not defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (c + t) / (n_c + n_t)
        z = (t / n_t - c / n_c) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_t))
    return np.nan_to_num(z)


def growthbook_excludes_zero(c: Array, n_c: Array, t: Array, n_t: Array, alpha: float = 0.05) -> Array:
    """Say where the interval lies above (1) or below (-1) zero; 0 elsewhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_c, p_t = c / n_c, t / n_t
        error = np.sqrt(p_c * (1 - p_c) / n_c + p_t * (1 - p_t) / n_t)
        spent = -2 * math.log(alpha)
        spread = (n_c + n_t) * (spent + math.log(spent + 1)) / 5000 + 1
        width = error * np.sqrt(spread / (spread - 1) * 2 * np.log(np.sqrt(spread) / alpha))
        effect = p_t - p_c
    known = np.isfinite(width) & (error > 0)
    return np.where(known & (effect > width), 1, np.where(known & (effect < -width), -1, 0))


def alarm(rates: Array, threshold: float, periods: int, needed: int) -> Array:
    """Say per stream in which period (from 1) ``needed`` of ``periods`` rates in a row breach; 0 for
    never."""
    breach = np.nan_to_num(rates) >= threshold
    total = np.cumsum(breach, axis=1)
    lagged = np.concatenate([np.zeros((len(rates), periods), dtype=int), total[:, :-periods]], axis=1)
    alarmed = (total - lagged) >= needed
    return np.where(alarmed.any(axis=1), alarmed.argmax(axis=1) + 1, 0)


def kayenta_fails(control: Array, canary: Array) -> bool:
    """Compare two series of minutes: the canary is higher with 98 % confidence, beyond its tolerance."""
    differences = np.sort((canary[:, None] - control[None, :]).ravel())
    n, m = len(canary), len(control)
    cut = n * m / 2 - 2.326 * math.sqrt(n * m * (n + m + 1) / 12)  # 98 % two-sided
    lowest = differences[max(0, math.floor(cut))]
    return bool(lowest > 0.25 * abs(float(np.median(differences))))


def diffy_flags(raw: Array, noise: Array, requests: int) -> Array:
    """Say which fields differ more in the candidate than production does from itself."""
    both = raw + noise
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(raw - noise) / both
    return (raw > noise) & (np.nan_to_num(relative) > 0.20) & (np.abs(raw - noise) / requests > 0.0003)

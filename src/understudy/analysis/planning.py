"""How many requests a proof takes: beforehand (:func:`plan`) and from where a trial stands
(:func:`requests_until`).

Expected events are put where counts would be, and the e-value is asked when it suffices.  Real evidence is a
random walk around that: the time at which it first suffices is spread about like an inverse Gaussian, whose
median and 80 % quantile are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from understudy.analysis.asymptotic import normal_quantile
from understudy.analysis.shares import (
    Bets,
    Events,
    bets_above,
    bets_below,
    bets_within,
    log_evidence,
    log_mixture,
    log_rate_below,
)
from understudy.core.policies import ACCEPTABLE_WEIGHT, Measure, MetricRule, Policy

MOST_REQUESTS = 10**10  # beyond it the answer is "never"


@dataclass(frozen=True)
class Expected:
    """Events that are expected, or counted and expected together."""

    pi: float
    control_events: float
    treatment_events: float
    treatment_requests: float = 0.0


@dataclass(frozen=True)
class Need:
    """What a proof takes.

    Attributes:
        metric: Of the policy.
        question: ``ship``, ``rollback`` or ``gain``.
        truth: What is assumed: the ratio of the treatment's rate to the control's.
        requests: Of both arms together, in half of all tests; None when there is no end.
        requests_p80: In four of five tests.
        minutes, minutes_p80: The same at the planned traffic; None without traffic.
    """

    metric: str
    question: str
    truth: float
    requests: int | None
    requests_p80: int | None
    minutes: float | None
    minutes_p80: float | None


@dataclass(frozen=True)
class Plan:
    """What a policy needs at some traffic, before it begins."""

    policy: str
    share: float
    requests_per_minute: float | None
    needs: tuple[Need, ...]

    def to_json(self) -> dict[str, Any]:
        """Render all of it."""
        return asdict(self)


def requests_until(proven: Callable[[float], bool]) -> int | None:
    """Find the smallest number of further requests after which something is proven; None for never.

    Args:
        proven: Of a number of further requests; once true it stays so.
    """
    high = 1.0
    while not proven(high):
        high *= 2.0
        if high > MOST_REQUESTS:
            return None
    low = 0.0
    while high - low > max(1.0, high * 1e-4):
        middle = (low + high) / 2.0
        if proven(middle):
            high = middle
        else:
            low = middle
    return math.ceil(high)


def plan(
    policy: Policy,
    rates: Mapping[str, float],
    requests_per_minute: float | None = None,
    share: float = 0.5,
) -> Plan:
    """Say how many requests each proof of a policy takes.

    Args:
        rates: The control's rate by metric, in (0, 1).  Latencies need none: it is what lies beyond the
            quantile.
            Metrics that are no events, or without a rate, are left out.
        requests_per_minute: Of both arms; None leaves minutes out.
        share: The treatment's, in (0, 1).

    Raises:
        ValueError: a rate, the share or the traffic is out of range; the text names it.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share: between 0 and 1, not {share:g}")
    if requests_per_minute is not None and not 0.0 < requests_per_minute < math.inf:
        raise ValueError(f"requests_per_minute: above 0, not {requests_per_minute:g}")
    guardrails = max(1, len(policy.guardrails))
    needs: list[Need] = []
    for rule in policy.rules:
        rate = 1.0 - rule.quantile if rule.measure is Measure.LATENCY else rates.get(rule.metric)
        if rate is None or rule.measure not in (Measure.RATE, Measure.LATENCY):
            continue
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rates.{rule.metric}: between 0 and 1, not {rate:g}")
        one = _Planned(rule, rate, share, requests_per_minute)
        if rule == policy.primary:
            needs.append(one.need("gain", _from_bad(rule, 1.0 / rule.mde), 1.0 / policy.alpha_promote))
        else:
            needs.append(one.need("ship", 1.0, 1.0 / policy.alpha_promote))
            needs.append(one.need("rollback", _from_bad(rule, rule.mde), guardrails / policy.alpha_rollback))
    return Plan(policy.name, share, requests_per_minute, tuple(needs))


def _from_bad(rule: MetricRule, ratio: float) -> float:
    """Turn a ratio that is worse when larger into the treatment's to the control's."""
    return ratio if rule.better == "lower" else 1.0 / ratio


@dataclass(frozen=True)
class _Planned:
    rule: MetricRule
    rate: float
    share: float
    requests_per_minute: float | None

    def need(self, question: str, truth: float, evidence: float) -> Need:
        def proven(requests: float) -> bool:
            return self._log(question, truth, requests) >= math.log(evidence)

        expected = requests_until(proven)
        median, p80 = (
            None if expected is None else math.ceil(expected * passage_quantile(math.log(evidence), part))
            for part in (0.5, 0.8)
        )
        return Need(self.rule.metric, question, truth, median, p80, self._minutes(median), self._minutes(p80))

    def _minutes(self, requests: int | None) -> float | None:
        if requests is None or self.requests_per_minute is None:
            return None
        return round(requests / self.requests_per_minute, 1)

    def _log(self, question: str, truth: float, requests: float) -> float:
        """Return the evidence that so many requests are expected to bring."""
        control = requests * self.rate * (1.0 - self.share)
        treated = requests * self.rate * truth * self.share
        expected = Expected(self.share, control, treated, requests * self.share)
        return log_of_question(self.rule, question, [expected], self.rate)


@lru_cache(maxsize=64)
def passage_quantile(log_needed: float, part: float) -> float:
    """Return when a part of all tests is over, as a multiple of the time that expected counts take.

    A log likelihood ratio drifts by half its variance, so the time until it reaches ``log_needed`` is inverse
    Gaussian with mean 1 and shape ``log_needed / 2``.

    Source: Wald 1947; Chhikara and Folks 1989 for the distribution.

    >>> round(passage_quantile(3.0, 0.5), 2), round(passage_quantile(3.0, 0.8), 2)
    (0.76, 1.43)
    """
    shape = log_needed / 2.0
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2.0
        root = math.sqrt(shape / middle)
        below = _phi(root * (middle - 1.0)) + math.exp(2.0 * shape) * _phi(-root * (middle + 1.0))
        low, high = (middle, high) if below < part else (low, middle)
    return (low + high) / 2.0


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def log_of_question(rule: MetricRule, question: str, counts: Sequence[Expected], rate: float = 0.0) -> float:
    """Weigh expected events for ``ship``, ``rollback`` or ``gain``.

    Args:
        rate: Of the events; who bets on every request gains ``1 / (1 - rate)`` times as fast, about.
    """
    turned: Sequence[Events] = (
        counts
        if rule.better == "lower"
        else [Expected(1.0 - one.pi, one.treatment_events, one.control_events) for one in counts]
    )
    bets: dict[str, Bets] = {
        "ship": bets_within(rule.margin),
        "rollback": bets_above(rule.tolerance, rule.mde),
        "gain": bets_below(1.0, rule.mde),
    }
    log = log_evidence(turned, bets[question])
    if question == "ship" and rule.acceptable_rate is not None:
        absolute = log_rate_below(counts, rule.acceptable_rate)
        log = log_mixture((log, absolute), (1.0 - ACCEPTABLE_WEIGHT, ACCEPTABLE_WEIGHT))
    faster = rule.every_request and bets[question].null == 1.0 and log > 0.0
    return log / (1.0 - rate) if faster else log


def sample_for_power(
    control_rate: float, treatment_rate: float, *, alpha: float = 0.05, power: float = 0.8, share: float = 0.5
) -> int:
    """Return the requests of both arms that a one-sided fixed-horizon z-test with known rates needs.

    >>> sample_for_power(0.01, 0.02), sample_for_power(0.10, 0.11)
    (3648, 23236)
    """
    spread = math.sqrt(
        control_rate * (1.0 - control_rate) / (1.0 - share) + treatment_rate * (1.0 - treatment_rate) / share
    )
    effect = abs(treatment_rate - control_rate)
    root = (normal_quantile(1.0 - alpha) + normal_quantile(power)) * spread / effect
    return 2 * math.ceil(root * root / 2.0)

"""Simulated traffic: families in which nothing is better, and effects that are.

Every function draws from the generator it is given, so that a seed names a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
RAMP = (0.05, 0.10, 0.25, 0.50)


@dataclass(frozen=True)
class Requests:
    """Streams of requests.

    Attributes:
        treated, events: bool, shape (streams, requests).
        pi: The logged share, shape (requests,).
    """

    treated: Array
    events: Array
    pi: Array


@dataclass(frozen=True)
class Units:
    """Streams of users: what each did, and how many requests it took."""

    treated: Array
    values: Array
    requests: Array
    pi: Array


def even(requests: int, share: float = 0.5) -> Array:
    """Return one share for all requests."""
    return np.full(requests, share)


def ramped(requests: int) -> Array:
    """Return shares of 5, 10, 25 and 50 %, a quarter of the requests each."""
    return np.repeat(RAMP, requests // len(RAMP))


def bernoulli(
    dice: np.random.Generator, streams: int, rate: Array, pi: Array, ratio: float = 1.0
) -> Requests:
    """Draw requests whose event has a rate that may drift; the treatment's is ``ratio`` times it."""
    requests = len(pi)
    treated = dice.random((streams, requests), dtype=np.float32) < pi
    chance = np.where(treated, np.minimum(rate * ratio, 1.0), rate)
    return Requests(treated, dice.random((streams, requests), dtype=np.float32) < chance, pi)


def drifting(requests: int, shape: str) -> Array:
    """Return an event rate per request: stationary, sinus, trend, outage or rare."""
    at = np.arange(requests) / requests
    if shape == "sinus":
        return 0.10 * (1 + 0.5 * np.sin(2 * np.pi * 10 * at))
    if shape == "trend":
        return 0.08 + 0.04 * at
    if shape == "falling":
        return 0.12 - 0.04 * at
    if shape == "outage":  # both fleets: seven points more, for two minutes of thirty
        return np.where((at > 0.4) & (at < 0.4 + 1 / 15), 0.08, 0.01)
    return np.full(requests, {"stationary": 0.10, "low": 0.01, "rare": 0.0005}[shape])


def retry_storms(dice: np.random.Generator, streams: int, requests: int, rate: float = 0.05) -> Requests:
    """Draw requests whose failures are tried again, up to three times, and fail more often then."""
    pi = even(requests)
    treated = dice.random((streams, requests), dtype=np.float32) < 0.5
    draws = dice.random((streams, requests), dtype=np.float32)
    events = np.zeros((streams, requests), dtype=bool)
    tries = np.zeros(streams, dtype=np.int64)
    for at in range(requests):
        events[:, at] = draws[:, at] < np.where(tries > 0, 0.6, rate)
        tries = np.where(events[:, at] & (tries < 3), tries + 1, 0)
    return Requests(treated, events, pi)


def sticky_users(dice: np.random.Generator, streams: int, users: int) -> Units:
    """Draw users who keep their variant: some have many requests, and some have most of the errors."""
    pi = even(users)
    treated = dice.random((streams, users)) < 0.5
    requests = np.minimum(1 + dice.geometric(0.1, (streams, users)), 100)
    own_rate = dice.beta(0.1, 0.9, (streams, users))
    return Units(treated, dice.binomial(requests, own_rate).astype(float), requests.astype(float), pi)


def as_requests(units: Units, stream: int) -> Requests:
    """Write one stream of users out as the requests they sent: what a test by request would see."""
    times = units.requests[stream].astype(int)
    errors = units.values[stream].astype(int)
    treated = np.repeat(units.treated[stream], times)
    place = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return Requests(treated[None], (place < np.repeat(errors, times))[None], even(len(treated)))


def heavy_tails(dice: np.random.Generator, streams: int, users: int) -> Units:
    """Draw values from a Pareto distribution of infinite variance; most users spend nothing."""
    treated = dice.random((streams, users)) < 0.5
    values = np.where(dice.random((streams, users)) < 0.1, dice.pareto(1.5, (streams, users)), 0.0)
    return Units(treated, values, np.ones((streams, users)), even(users))


def tied_latencies(dice: np.random.Generator, streams: int, requests: int) -> Requests:
    """Draw latencies of a few values only, and count those above the threshold at their 90 % quantile."""
    latencies = np.round(dice.lognormal(0.0, 0.5, (streams, requests)), 1)
    threshold = np.quantile(np.round(dice.lognormal(0.0, 0.5, 5000), 1), 0.9)
    return Requests(dice.random((streams, requests)) < 0.5, latencies > threshold, even(requests))


def delayed_labels(
    dice: np.random.Generator, streams: int, hours: int, per_hour: int, window_h: int
) -> tuple[Requests, Array]:
    """Draw conversions that arrive after 6 hours in the control and 3 in the treatment, on average.

    Returns:
        Exposures of which those older than the window count, and per hour (streams, hours, 4) what a test of
        conversions so far sees: events and exposures of control and treatment.
    """
    exposures = hours * per_hour
    at_h = np.arange(exposures) / per_hour
    treated = dice.random((streams, exposures)) < 0.5
    converts = dice.random((streams, exposures)) < 0.10
    delay_h = dice.exponential(1.0, (streams, exposures)) * np.where(treated, 3.0, 6.0)
    matured = Requests(treated, converts & (delay_h <= window_h), even(exposures))
    seen = np.zeros((streams, hours, 4), dtype=np.int64)
    for hour in range(1, hours + 1):
        until = hour * per_hour
        arrived = converts[:, :until] & (at_h[:until] + delay_h[:, :until] <= hour)
        arm = treated[:, :until]
        seen[:, hour - 1, 0] = (arrived & ~arm).sum(axis=1)
        seen[:, hour - 1, 1] = (arrived & arm).sum(axis=1)
        seen[:, hour - 1, 2] = (~arm).sum(axis=1)
        seen[:, hour - 1, 3] = arm.sum(axis=1)
    return matured, seen

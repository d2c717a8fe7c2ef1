"""One measurement: a load on a running server, with what its processes used meanwhile.

Main function: :func:`measure`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.contestants import Started
from bench.loadgen.engine import Load
from bench.loadgen.remote import run_load
from bench.processes import Usage


class WrongAnswer(Exception):
    """A server answered wrongly: no figure of this run may be shown."""


@dataclass(frozen=True)
class Measurement:
    """What one load gave.

    Attributes:
        cpu_us: CPU time of the server's whole tree per request answered, microseconds.
        cpu_us_by_role: The same, by process role.
        rss_bytes: Of the tree at the end.
        load: Everything the generator reported.
    """

    per_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_us: float
    cpu_us_by_role: dict[str, float]
    rss_bytes: int
    errors: dict[str, int]
    load: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)


def measure(started: Started, load: Load, *, allow_refusals: bool = False) -> Measurement:
    """Make a load on a server.

    Args:
        load: Its host and port are taken from the server.
        allow_refusals: 429 and 503 are expected (overload).
    Raises:
        WrongAnswer: an answer was not the right one.
    """
    readings: list[Usage] = []
    result = run_load(
        replace(load, host=started.host, port=started.port),
        started.plan,
        sign=started.sign,
        at_open=lambda: readings.append(started.running.usage()),
        at_close=lambda: readings.append(started.running.usage()),
    )
    if result["wrong"]:
        raise WrongAnswer("; ".join(result["examples"]))
    before, after = readings
    answered = max(1, result["in_window"])
    roles = {role: used_us / answered for role, used_us in after.cpu_us_since(before).items()}
    errors = {
        kind: count
        for kind, count in result["errors"].items()
        if not (allow_refusals and kind in ("status 429", "status 503"))
    }
    latency = result["latency"]
    return Measurement(
        result["per_s"],
        latency["p50_us"],
        latency["p99_us"],
        latency["p999_us"],
        sum(roles.values()),
        roles,
        after.rss_bytes,
        errors,
        result,
    )

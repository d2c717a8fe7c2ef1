"""Live values: one sampler for all who watch, told as server-sent events.

Owns the sampling: once a second while anybody watches, the running totals of the recorder and the endpoints'
state become one picture, encoded once per endpoint however many watch.  Who watches all endpoints gets a
whole picture first, then what changed: a thousand idle endpoints cost nothing.  Viewers are served one after
the other over a part of the second, so that the requests beside their streams never wait for all of them.
Rates and percentiles are of the last ``WINDOW_S`` seconds of real time.  Main type: :class:`Live`.

Source: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import msgspec

from understudy.control.totals import VariantTotals
from understudy.core.metrics import Summary, value_of
from understudy.core.ports import Clock
from understudy.core.statistics import statistic

log = logging.getLogger(__name__)

SAMPLE_S = 1.0
WINDOW_S = 5.0
MOST_WORK = 0.05  # part of a processor that sampling may take; with thousands of endpoints it is less often
MAX_VIEWERS = 500
SPREAD = 0.7  # part of the time between samples over which viewers get theirs
RETRY_MS = 2000  # how long a browser waits before it connects again

Totals = Mapping[tuple[str, str], VariantTotals]


class TooManyViewers(Exception):
    """More streams are open than the server wants to feed."""


class Live:
    """The sampler.

    Args:
        totals: Returns what every variant has served so far.
        describe: Returns the state of all endpoints: ``{"endpoints": [{"name": ..., "variants": [...]}]}``.
        clock: The server's, perhaps scaled.
        threads: Where sampling runs: it reads the records.
        stopping: Whether the server is about to end; open streams then end too.
    """

    def __init__(
        self,
        totals: Callable[[], Totals],
        describe: Callable[[], dict[str, Any]],
        clock: Clock,
        threads: Executor,
        stopping: Callable[[], bool],
    ) -> None:
        self._totals = totals
        self._describe = describe
        self._clock = clock
        self._threads = threads
        self._stopping = stopping
        self._past: deque[tuple[float, Totals]] = deque()
        self._viewers = 0
        self._sampling: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._picture: _Picture | None = None
        self._number = 0
        self._arrivals = 0
        self._pause_s = SAMPLE_S

    async def watch(self, endpoint: str | None) -> AsyncIterator[bytes]:
        """Yield events until the viewer goes or the server ends.

        Args:
            endpoint: Only this one; None: all.
        Raises:
            TooManyViewers: at once.
        """
        if self._viewers >= MAX_VIEWERS:
            raise TooManyViewers
        self._viewers += 1
        if self._sampling is None or self._sampling.done():
            self._sampling = asyncio.create_task(self._sample_on())
        # Multiples of the golden ratio spread any number of viewers evenly.
        delay_s = self._arrivals * 0.618034 % 1.0 * SPREAD * SAMPLE_S
        self._arrivals += 1
        seen = self._number
        told = None  # number of the picture that the viewer has
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            if (
                self._picture is not None
                and self._past
                and time.monotonic() - self._past[-1][0] < 2 * self._pause_s
            ):
                told = self._number
                yield self._picture.event(endpoint)
            while not self._stopping():
                await self._wait(seen)
                if self._number == seen:
                    yield b": waiting\n\n"
                    continue
                await asyncio.sleep(delay_s)
                seen = self._number
                if self._picture is None:
                    return  # sampling ended: the browser connects again
                yield self._picture.event(endpoint, changes=told == seen - 1)
                told = seen
        finally:
            self._viewers -= 1

    async def _wait(self, seen: int) -> None:
        """Wait for a picture after number ``seen``, two samples long at most."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * self._pause_s):
                    await self._changed.wait_for(lambda: self._number != seen)

    async def _sample_on(self) -> None:
        """Sample while anybody watches."""
        loop = asyncio.get_running_loop()
        try:
            while self._viewers > 0 and not self._stopping():
                sample = await loop.run_in_executor(self._threads, self._sample)
                self._picture = _Picture(sample, self._picture)
                self._number += 1
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(self._pause_s)
        except Exception:
            # Viewers wait and come again, which starts the next try.
            log.exception("console: live values can't be sampled")
        finally:
            self._past.clear()
            self._number += 1  # an old picture is news to nobody
            self._picture = None

    def _sample(self) -> dict[str, Any]:
        """Look once; runs in a thread, never twice at a time."""
        began_s = time.thread_time()
        now_s, totals = time.monotonic(), self._totals()
        while self._past and self._past[0][0] < now_s - WINDOW_S - SAMPLE_S / 2:
            self._past.popleft()
        before_s, before = self._past[0] if self._past else (now_s, totals)
        self._past.append((now_s, totals))
        endpoints = self._describe()["endpoints"]
        for endpoint in endpoints:
            for variant in endpoint["variants"]:
                key = (endpoint["name"], variant["name"])
                after = totals.get(key, VariantTotals())
                variant["live"] = difference(before.get(key, VariantTotals()), after, now_s - before_s)
        self._pause_s = max(SAMPLE_S, (time.thread_time() - began_s) / MOST_WORK)
        return {"at_s": self._clock.now_s(), "window_s": round(now_s - before_s, 3), "endpoints": endpoints}


class _Picture:
    """One sample as events: each endpoint is encoded once, each event at most once.

    Args:
        sample: As of ``Live._sample``.
        before: The sample before it; None: there is none.
    """

    def __init__(self, sample: dict[str, Any], before: _Picture | None) -> None:
        self._head = msgspec.json.encode({key: held for key, held in sample.items() if key != "endpoints"})
        self._endpoints = {one["name"]: msgspec.json.encode(one) for one in sample["endpoints"]}
        known = {} if before is None else before._endpoints
        self._changed = [one for name, one in self._endpoints.items() if known.get(name) != one]
        self._gone = [name for name in known if name not in self._endpoints]
        self._events: dict[tuple[str | None, bool], bytes] = {}

    def event(self, endpoint: str | None, *, changes: bool = False) -> bytes:
        """Render as server-sent event: ``whole`` tells whether endpoints that it does not name are gone.

        Args:
            endpoint: Only this one; None: all.
            changes: The viewer has the sample before: of all endpoints tell only what changed.
        """
        changes = changes and endpoint is None
        event = self._events.get((endpoint, changes))
        if event is None:
            if endpoint is not None:
                told = [self._endpoints[endpoint]] if endpoint in self._endpoints else []
            else:
                told = self._changed if changes else list(self._endpoints.values())
            rest = b'"whole":%s,"gone":%s,"endpoints":[%s]}' % (
                b"false" if changes else b"true",
                msgspec.json.encode(self._gone if changes else []),
                b",".join(told),
            )
            event = b"data: " + self._head[:-1] + b"," + rest + b"\n\n"
            self._events[(endpoint, changes)] = event
        return event


def difference(before: VariantTotals, after: VariantTotals, seconds: float) -> dict[str, Any]:
    """Say what happened between two totals.

    Args:
        seconds: Real time between them; 0: nothing is known yet.
    Returns:
        Counts, ``rate`` per second, ``p50_us``, ``p90_us``, ``p99_us`` of ModelLatency (None without any),
        and the totals of ``shadow`` outcomes.

    >>> from dataclasses import replace
    >>> one = VariantTotals(invocations=10)
    >>> difference(one, replace(one, invocations=30), 5.0)["rate"]
    4.0
    """
    invocations = max(0, after.invocations - before.invocations)
    latency = _between(before.model_latency_us, after.model_latency_us)
    return {
        "invocations": invocations,
        "rate": round(invocations / seconds, 3) if seconds > 0.0 else None,
        "errors_4xx": max(0, after.errors_4xx - before.errors_4xx),
        "errors_5xx": max(0, after.errors_5xx - before.errors_5xx),
        "p50_us": statistic(latency, "p50"),
        "p90_us": statistic(latency, "p90"),
        "p99_us": statistic(latency, "p99"),
        "total": after.invocations,
        "shadow": dict(after.shadow),
    }


def _between(before: Summary, after: Summary) -> Summary:
    """Take what came since: the sketches' counts subtract as they add."""
    buckets = {
        bucket: count - before.buckets.get(bucket, 0.0)
        for bucket, count in after.buckets.items()
        if count > before.buckets.get(bucket, 0.0)
    }
    count = sum(buckets.values())
    if count <= 0.0:
        return Summary()
    # Minimum and maximum of the new ones alone are not known: their buckets stand for them.
    low, high = value_of(min(buckets)), value_of(max(buckets))
    return Summary(count, after.sum - before.sum, low, high, buckets)

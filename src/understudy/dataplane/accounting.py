"""Counts every request exactly once and hands the counts to the controller, in seconds of the scaled clock.

Owns :class:`Tally` (what the request path adds to) and :class:`Ledger` (what is to be sent).  Refuses
unbounded memory: tallies exist for routed variants only, refusals and outcomes are keyed by fixed sets of
words, and what can't be delivered for long is merged into minutes, then hours.  Main class: :class:`Ledger`.
"""

from __future__ import annotations

import collections
import functools
import math
from typing import Any, NamedTuple, Protocol

from understudy.core.metrics import bucket_of

MAX_ITEMS = 4096
_SUMMED = (
    "invocations",
    "errors_4xx",
    "errors_5xx",
    "model_errors",
    "caller_errors",
    "abandoned",
    "per_instance",
)
_COARSER_S = (60, 3600, 86_400, 86_400 * 365)

# Whole microseconds repeat: most lookups hit, and the cache is bounded.
_bucket = functools.lru_cache(maxsize=65_536)(bucket_of)

CLIENT_GONE = 499  # nginx's number for it: counts as the caller's, reaches nobody


class Key(NamedTuple):
    """Whose counts they are.

    Attributes:
        stage: Of the table by which the requests were routed.
        source: A ``core.stages.Source``; empty for shadows, which are given copies.
    """

    endpoint: str
    variant: str
    config: str
    fleet: str = ""
    stage: int = 0
    source: str = ""


class Counter(Protocol):
    """What a request that has ended is told to."""

    @property
    def key(self) -> Key:
        """Whose counts they are."""
        ...

    def of_source(self, source: str) -> Counter:
        """Return the counts of the same variant by another source."""
        ...

    def answered(self, share: float, model_us: int, overhead_us: int) -> None:
        """Count a request that the model answered with 2XX."""
        ...

    def failed(
        self, share: float, status: int, *, by_model: bool, model_us: int | None, overhead_us: int | None
    ) -> None:
        """Count a request that ended in an error."""
        ...


class Tally:
    """Counts of one variant since they were last taken.

    Attributes:
        caller_errors: Of ``errors_4xx``: neither a model's status nor of a caller that went away.
        abandoned: Of ``errors_4xx``: the caller went away.
        model_us: ModelLatency of each answer of the model, microseconds.
        overhead_us: OverheadLatency of the same requests.
        per_instance: Sum of 1 / instances.
        at_work: Listed in the ledger: has counts.
    """

    __slots__ = (
        "_ledger",
        "abandoned",
        "at_work",
        "caller_errors",
        "errors_4xx",
        "errors_5xx",
        "invocations",
        "key",
        "model_errors",
        "model_us",
        "overhead_us",
        "per_instance",
    )

    def __init__(self, ledger: Ledger, key: Key) -> None:
        self._ledger = ledger
        self.key = key
        self.at_work = False
        self._clear()

    def _clear(self) -> None:
        self.invocations = 0
        self.errors_4xx = 0
        self.errors_5xx = 0
        self.model_errors = 0
        self.caller_errors = 0
        self.abandoned = 0
        self.per_instance = 0.0
        self.model_us: list[int] = []
        self.overhead_us: list[int] = []

    def of_source(self, source: str) -> Tally:
        """Return the counts of the same variant by another source."""
        return self._ledger.tally_of(self.key._replace(source=source))

    def answered(self, share: float, model_us: int, overhead_us: int) -> None:
        """Count a request that the model answered with 2XX.

        Args:
            share: 1 / instances of the variant.
        """
        if not self.at_work:
            self._ledger.enlist(self)
        self.invocations += 1
        self.per_instance += share
        self.model_us.append(model_us)
        self.overhead_us.append(overhead_us)

    def failed(
        self, share: float, status: int, *, by_model: bool, model_us: int | None, overhead_us: int | None
    ) -> None:
        """Count a request that ended in an error.

        Args:
            status: Of the model when ``by_model`` (0: it did not answer at all), else of our answer.
            model_us: None when no model was waited for.
        """
        if not self.at_work:
            self._ledger.enlist(self)
        self.invocations += 1
        self.per_instance += share
        if 400 <= status < 500:
            self.errors_4xx += 1
            if not by_model:
                if status == CLIENT_GONE:
                    self.abandoned += 1
                else:
                    self.caller_errors += 1
        else:
            self.errors_5xx += 1
        if by_model:
            self.model_errors += 1
        if model_us is not None:
            self.model_us.append(model_us)
        if overhead_us is not None:
            self.overhead_us.append(overhead_us)

    def take(self, at_s: int) -> dict[str, Any]:
        """Return the counts as an item of the control channel and start anew."""
        item = {
            **self.key._asdict(),
            "at_s": at_s,
            "invocations": self.invocations,
            "errors_4xx": self.errors_4xx,
            "errors_5xx": self.errors_5xx,
            "model_errors": self.model_errors,
            "caller_errors": self.caller_errors,
            "abandoned": self.abandoned,
            "per_instance": self.per_instance,
            "model_latency_us": summarise(self.model_us),
            "overhead_latency_us": summarise(self.overhead_us),
        }
        self._clear()
        self.at_work = False
        return item


def summarise(values_us: list[int]) -> list[Any]:
    """Render samples as ``[count, sum, min, max, {bucket: count}]``; zeros when there are none.

    >>> summarise([2, 2, 0])[:4]
    [3, 4, 0, 2]
    """
    if not values_us:
        return [0, 0, 0, 0, {}]
    buckets: dict[str, int] = {}
    for value, count in collections.Counter(values_us).items():
        bucket = str(_bucket(value))
        buckets[bucket] = buckets.get(bucket, 0) + count
    return [len(values_us), sum(values_us), min(values_us), max(values_us), buckets]


def _merge_summaries(one: list[Any], two: list[Any]) -> list[Any]:
    if not one[0]:
        return two
    if not two[0]:
        return one
    buckets = dict(one[4])
    for bucket, count in two[4].items():
        buckets[bucket] = buckets.get(bucket, 0) + count
    return [one[0] + two[0], one[1] + two[1], min(one[2], two[2]), max(one[3], two[3]), buckets]


def merge_items(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Add two items of the same variant; the first one's second is kept."""
    merged = dict(one)
    for name in _SUMMED:
        merged[name] = one[name] + two[name]
    for name in ("model_latency_us", "overhead_latency_us"):
        merged[name] = _merge_summaries(one[name], two[name])
    return merged


class Ledger:
    """All tallies of one router, and what of them is still to be sent.

    One batch at a time is under way: what was sent may have been recorded though its acknowledgement
    was lost, so it is sent again unchanged, under its own sequence; only unsent counts are merged.
    """

    def __init__(self) -> None:
        self._tallies: dict[Key, Tally] = {}
        self._at_work: list[Tally] = []
        self._closed: dict[tuple[Key, int], dict[str, Any]] = {}
        self._refused: dict[str, int] = {}
        self._outcomes: dict[tuple[str, str, str], dict[str, int]] = {}
        self._sequence = 0
        self._under_way: dict[str, Any] | None = None

    def tally(
        self, endpoint: str, variant: str, config: str, *, fleet: str = "", stage: int = 0, source: str = ""
    ) -> Tally:
        """Return the tally of a routed variant; see :class:`Key`."""
        return self.tally_of(Key(endpoint, variant, config, fleet, stage, source))

    def tally_of(self, key: Key) -> Tally:
        """Return the tally of a key."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(self, key)
        return tally

    def keep_only(self, keys: set[Key]) -> None:
        """Forget tallies of variants that are routed no more; late requests still count in theirs."""
        for key in self._tallies.keys() - keys:
            del self._tallies[key]

    def enlist(self, tally: Tally) -> None:
        """Note that a tally has counts."""
        tally.at_work = True
        self._at_work.append(tally)

    def refuse(self, code: str) -> None:
        """Count a request that no variant was chosen for.

        Args:
            code: One of our error codes; never a caller's text.
        """
        self._refused[code] = self._refused.get(code, 0) + 1

    def note(self, kind: str, endpoint: str, variant: str, outcome: str, count: int = 1) -> None:
        """Count what became of a copy for a shadow, or of a record.

        Args:
            kind: ``shadow`` or ``capture``.
            outcome: One of that kind's few fixed words.
        """
        key = (kind, endpoint, variant)
        counts = self._outcomes.get(key)
        if counts is None:
            counts = self._outcomes[key] = {}
        counts[outcome] = counts.get(outcome, 0) + count

    def close_second(self, at_s: int) -> None:
        """Move what was counted since the last call into the second ``at_s``."""
        at_work, self._at_work = self._at_work, []
        for tally in at_work:
            item = tally.take(at_s)
            key = (tally.key, at_s)
            before = self._closed.get(key)
            self._closed[key] = item if before is None else merge_items(before, item)
        for step_s in _COARSER_S:
            if len(self._closed) <= MAX_ITEMS:
                break
            self._coarsen(step_s)

    def _coarsen(self, step_s: int) -> None:
        """Merge unsent seconds into steps of ``step_s``."""
        coarse: dict[tuple[Key, int], dict[str, Any]] = {}
        for (whose, at_s), item in self._closed.items():
            start_s = math.floor(at_s / step_s) * step_s
            key = (whose, start_s)
            before = coarse.get(key)
            coarse[key] = dict(item, at_s=start_s) if before is None else merge_items(before, item)
        self._closed = coarse

    def next_batch(self, at_s: int) -> dict[str, Any] | None:
        """Return what is to be sent now: the batch under way, or a new one, or None.

        Returns:
            ``{"seq": n, "data": [...]}``; the same one until :meth:`acknowledge`.
        """
        if self._under_way is None and (self._closed or self._refused or self._outcomes):
            data: list[dict[str, Any]] = list(self._closed.values())
            if self._refused:
                data.append({"endpoint": "", "variant": "", "at_s": at_s, "refused": self._refused})
            for (kind, endpoint, variant), counts in self._outcomes.items():
                data.append({"endpoint": endpoint, "variant": variant, "at_s": at_s, kind: counts})
            self._sequence += 1
            self._under_way = {"seq": self._sequence, "data": data}
            self._closed, self._refused, self._outcomes = {}, {}, {}
        return self._under_way

    def acknowledge(self, sequence: int) -> None:
        """Forget the batch of that sequence: the controller has recorded it."""
        if self._under_way is not None and self._under_way["seq"] == sequence:
            self._under_way = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to send."""
        return not (self._at_work or self._closed or self._refused or self._outcomes or self._under_way)

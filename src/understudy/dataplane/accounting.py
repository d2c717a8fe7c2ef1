"""Counts every request exactly once and hands the counts to the controller, in seconds of the scaled clock.

Owns :class:`Tally` (what the request path adds to) and :class:`Ledger` (what is to be sent).  Refuses
unbounded memory: tallies exist for routed variants only, refusals and outcomes are keyed by fixed sets of
words, and what can't be delivered for long is merged into minutes, then hours.  Main class: :class:`Ledger`.

With a :class:`~understudy.dataplane.journal.Journal` every count is in it before it counts here, so that a
killed router's counts can be read back: :func:`read_back`.
"""

from __future__ import annotations

import collections
import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from understudy.core.metrics import bucket_of
from understudy.dataplane.journal import Journal, Name, Read

log = logging.getLogger(__name__)

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
CAPTURE, ASSIGNMENT, SHADOW = "capture", "assignment", "shadow"
SPOOLED = frozenset({CAPTURE, ASSIGNMENT})  # kinds of records that go through a spool
SHED = frozenset({"queue", "disk", "shutdown"})  # what becomes of one that does not come out of it
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

    def begin(self, share: float, also: Also = ()) -> None:
        """Note that a request was handed over."""
        ...

    def answered(self, share: float, model_us: int, overhead_us: int, also: Also = ()) -> None:
        """Count a request that the model answered with 2XX."""
        ...

    def failed(
        self,
        share: float,
        status: int,
        *,
        by_model: bool,
        model_us: int | None,
        overhead_us: int | None,
        handed: bool = True,
    ) -> None:
        """Count a request that ended in an error."""
        ...


class Entry:
    """What is counted again and again under one name, as the journal knows it.

    Attributes:
        name: See :meth:`Ledger.log`.
    """

    __slots__ = ("_generation", "_ledger", "_slot", "name")

    def __init__(self, ledger: Ledger, name: Name) -> None:
        self._ledger = ledger
        self.name = name
        self._slot = self._generation = 0

    def log(self, value: int) -> None:
        """Write down what is about to be counted."""
        journal = self._ledger.journal
        if journal is not None:
            if self._generation != journal.generation or journal.at > journal.limit:
                self._slot = self._ledger.slot(self.name)
                self._generation = journal.generation
            journal.add(self._slot, value)


class Expectation(Entry):
    """The records of a variant that are to come out of the spool, or a shadow's requests without an outcome.

    Attributes:
        count: How many were announced and have not been noted as shed, or as whatever became of them.
    """

    __slots__ = ("count",)

    def __init__(self, ledger: Ledger, key: tuple[str, str, str]) -> None:
        super().__init__(ledger, ("expected", *key))
        self.count = 0

    def add(self, count: int = 1) -> None:
        """Note that an answer leaves whose record is to come, or to be noted as shed."""
        self.log(count)
        self.count += count

    def joined(self) -> None:
        """Count one that the journal has in the same cell as something else."""
        self.count += 1


class Noted(Entry):
    """One outcome of one variant, for those who note it again and again; see :meth:`Ledger.note`."""

    __slots__ = ("_of",)

    def __init__(self, ledger: Ledger, kind: str, endpoint: str, variant: str, outcome: str) -> None:
        super().__init__(ledger, ("noted", kind, endpoint, variant, outcome))
        self._of = kind, endpoint, variant, outcome

    def joined(self) -> None:
        """Count one that the journal has in the same cell as something else."""
        self._ledger.count_outcome(*self._of, 1)


# What is counted together with a request, in one cell: a process that is killed has counted all of it or
# nothing.  The same tuple each time: its slot is remembered by which one it is.
Also = tuple[Expectation | Noted, ...]


def _joint(name: Name, also: Also) -> Name:
    return ("all", name, *(one.name for one in also)) if also else name


class Tally:
    """Counts of one variant since they were last taken.

    Attributes:
        caller_errors: Of ``errors_4xx``: neither a model's status nor of a caller that went away.
        abandoned: Of ``errors_4xx``: the caller went away.
        model_us: ModelLatency of each answer of the model, microseconds.
        overhead_us: OverheadLatency of the same requests.
        per_instance: Sum of 1 / instances.
        at_work: Listed in the ledger: has counts.
        share: 1 / instances, as last told.
        open: Requests that were handed to an instance and have no result yet; counted where ``begin`` is.
    """

    __slots__ = (
        "_begun_also",
        "_begun_generation",
        "_begun_slot",
        "_generation",
        "_ledger",
        "_slot",
        "_slot_also",
        "_slot_share",
        "abandoned",
        "at_work",
        "caller_errors",
        "errors_4xx",
        "errors_5xx",
        "invocations",
        "key",
        "model_errors",
        "model_us",
        "open",
        "overhead_us",
        "per_instance",
        "share",
        "tracked",
    )

    def __init__(self, ledger: Ledger, key: Key) -> None:
        self._ledger = ledger
        self.key = key
        self.at_work = False
        self.tracked = False
        self.open = 0
        self._slot = self._generation = self._begun_slot = self._begun_generation = 0
        self._slot_also: Also = ()
        self._begun_also: Also = ()
        self.share = self._slot_share = 0.0
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

    def begin(self, share: float, also: Also = ()) -> None:
        """Note that a request was handed over: if this process is killed before the result, it has failed.

        Args:
            share: 1 / instances of the variant.
            also: What is counted with it.
        """
        journal = self._ledger.journal
        if journal is not None:
            if (
                self._begun_generation != journal.generation
                or self.share != share
                or self._begun_also is not also
                or journal.at > journal.limit
            ):
                self._begun_slot = self._ledger.slot(_joint(("begin", *self.key, share), also))
                self._begun_also, self._begun_generation = also, journal.generation
            journal.add(self._begun_slot, 1)
        self.share = share
        if not self.tracked:
            self.tracked, self.open = True, 0
        self.open += 1
        for one in also:
            one.joined()

    def answered(self, share: float, model_us: int, overhead_us: int, also: Also = ()) -> None:
        """Count a request that the model answered with 2XX.

        Args:
            share: 1 / instances of the variant.
            also: What is counted with it.
        """
        journal = self._ledger.journal
        if journal is not None:
            if (
                self._generation != journal.generation
                or self._slot_share != share
                or self._slot_also is not also
                or journal.at > journal.limit
            ):
                self._slot = self._ledger.slot(_joint(("answered", *self.key, share), also))
                self._slot_share, self._slot_also, self._generation = share, also, journal.generation
            journal.write(self._slot, model_us, overhead_us)
        for one in also:
            one.joined()
        self.open -= 1
        if not self.at_work:
            self._ledger.enlist(self)
        self.invocations += 1
        self.per_instance += share
        self.model_us.append(model_us)
        self.overhead_us.append(overhead_us)

    def failed(
        self,
        share: float,
        status: int,
        *,
        by_model: bool,
        model_us: int | None,
        overhead_us: int | None,
        handed: bool = True,
    ) -> None:
        """Count a request that ended in an error.

        Args:
            status: Of the model when ``by_model`` (0: it did not answer at all), else of our answer.
            model_us: None when no model was waited for.
            handed: It had been handed to an instance.
        """
        known = (model_us is not None, overhead_us is not None)
        self._ledger.log(
            ("failed", *self.key, share, status, by_model, *known, handed), model_us or 0, overhead_us or 0
        )
        if handed:
            self.open -= 1
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

    Args:
        journal: Where counts outlive this process; None: nowhere.
        wall_s: The scaled clock's Unix time.

    Attributes:
        journal: None, too, once it can't hold what there is.
    """

    def __init__(self, journal: Journal | None = None, wall_s: Callable[[], float] = time.monotonic) -> None:
        self.journal = journal
        self._wall_s = wall_s
        self._tallies: dict[Key, Tally] = {}
        self._at_work: list[Tally] = []
        self._closed: dict[tuple[Key, int], dict[str, Any]] = {}
        self._refused: dict[str, int] = {}
        self._outcomes: dict[tuple[str, str, str], dict[str, int]] = {}
        self._expected: dict[tuple[str, str, str], Expectation] = {}
        self._sequence = 0
        self._under_way: dict[str, Any] | None = None
        if journal is not None:
            self._save(int(wall_s()))

    def tally(
        self, endpoint: str, variant: str, config: str, fleet: str = "", stage: int = 0, source: str = ""
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
            if self._tallies[key].open <= 0:
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
        self.log(("refused", code), 1)
        self._refused[code] = self._refused.get(code, 0) + 1

    def note(self, kind: str, endpoint: str, variant: str, outcome: str, count: int = 1) -> None:
        """Count what became of a copy for a shadow, or of a record.

        Args:
            kind: ``shadow`` or ``capture``.
            outcome: One of that kind's few fixed words.
        """
        self.log(("noted", kind, endpoint, variant, outcome), count)
        self.count_outcome(kind, endpoint, variant, outcome, count)

    def count_outcome(self, kind: str, endpoint: str, variant: str, outcome: str, count: int) -> None:
        """Count an outcome that the journal has; see :meth:`note`."""
        key = (kind, endpoint, variant)
        if kind == SHADOW or (kind in SPOOLED and outcome in SHED):
            self.expectation(*key).count -= count
        counts = self._outcomes.get(key)
        if counts is None:
            counts = self._outcomes[key] = {}
        counts[outcome] = counts.get(outcome, 0) + count

    def expect(self, kind: str, endpoint: str, variant: str, count: int = 1) -> None:
        """Note an answer whose record is to come out of the spool, or to be noted as shed.  Or a request that
        was handed over, of which a shadow may get a copy: its outcome is to be noted.

        Args:
            kind: One of ``SPOOLED``, or ``SHADOW``.
        """
        self.expectation(kind, endpoint, variant).add(count)

    def expectation(self, kind: str, endpoint: str, variant: str) -> Expectation:
        """Return what is to come of a variant's records; see :meth:`expect`."""
        key = (kind, endpoint, variant)
        known = self._expected.get(key)
        if known is None:
            known = self._expected[key] = Expectation(self, key)
        return known

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
        if self._under_way is not None or self.is_empty:
            return self._under_way
        if self.journal is not None:
            self.close_second(at_s)  # a batch, and what the journal begins anew with, are cut at one point
        if self._closed or self._refused or self._outcomes:
            data: list[dict[str, Any]] = list(self._closed.values())
            if self._refused:
                data.append({"endpoint": "", "variant": "", "at_s": at_s, "refused": self._refused})
            for (kind, endpoint, variant), counts in self._outcomes.items():
                data.append({"endpoint": endpoint, "variant": variant, "at_s": at_s, kind: counts})
            self._sequence += 1
            self._under_way = {"seq": self._sequence, "data": data}
            self._closed, self._refused, self._outcomes = {}, {}, {}
            if self.journal is not None:
                self._save(at_s)  # before it can be sent
        return self._under_way

    def acknowledge(self, sequence: int) -> None:
        """Forget the batch of that sequence: the controller has recorded it."""
        if self._under_way is not None and self._under_way["seq"] == sequence:
            self._under_way = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to send."""
        return not (self._at_work or self._closed or self._refused or self._outcomes or self._under_way)

    def tick(self, at_s: int) -> None:
        """Have the journal know the second."""
        if self.journal is not None:
            self.journal.at_s = at_s

    # --- the journal ---------------------------------------------------------------------------------

    def log(self, name: Name, value: int, second: int = 0) -> None:
        """Write down what is about to be counted."""
        if self.journal is not None:
            slot = self.slot(name)
            if self.journal is not None:
                self.journal.write(slot, value, second)

    def slot(self, name: Name) -> int:
        """Return a name's slot in the journal, which has room for a cell after this."""
        journal = self.journal
        assert journal is not None
        if journal.at > journal.limit:
            self._save(int(self._wall_s()))
        return journal.slots.get(name) or journal.define(name)

    def _save(self, at_s: int) -> None:
        """Have the journal begin anew from everything there is."""
        assert self.journal is not None
        self.tick(at_s)
        self.close_second(at_s)
        for step_s in (0, *_COARSER_S):
            if step_s:
                self._coarsen(step_s)
            if self.journal.replace(self._snapshot()):
                return
        log.error("the journal of counts is full: what is not sent when this router is killed is lost")
        self.journal = None

    def _snapshot(self) -> dict[str, Any]:
        return {
            "sequence": self._sequence,
            "under_way": self._under_way,
            "closed": list(self._closed.values()),
            "refused": self._refused,
            "outcomes": [[*key, counts] for key, counts in self._outcomes.items()],
            "expected": [[*key, one.count] for key, one in self._expected.items()],
            "open": [[*one.key, one.share, one.open] for one in self._tallies.values() if one.open > 0],
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self._sequence, self._under_way = snapshot["sequence"], snapshot["under_way"]
        for item in snapshot["closed"]:
            self._closed[Key(**{name: item[name] for name in Key._fields}), item["at_s"]] = item
        self._refused = snapshot["refused"]
        self._outcomes = {(kind, *place): counts for kind, *place, counts in snapshot["outcomes"]}
        for kind, endpoint, variant, count in snapshot["expected"]:
            self.expectation(kind, endpoint, variant).count = count
        for *key, share, count in snapshot["open"]:
            tally = self.tally(*key)
            for _ in range(count):
                tally.begin(share)

    def _count_again(self, name: Name, value: int, second: int) -> None:
        """Count what a journal has."""
        kind, *rest = name
        if kind == "answered":
            *key, share = rest
            self.tally(*key).answered(share, value, second)
        elif kind == "failed":
            *key, share, status, by_model, waited, knows_overhead, handed = rest
            self.tally(*key).failed(
                share,
                status,
                by_model=by_model,
                model_us=value if waited else None,
                overhead_us=second if knows_overhead else None,
                handed=handed,
            )
        elif kind == "begin":
            *key, share = rest
            self.tally(*key).begin(share)
        elif kind == "noted":
            word, endpoint, variant, outcome = rest
            self.note(word, endpoint, variant, outcome, value)
        elif kind == "expected":
            word, endpoint, variant = rest
            self.expect(word, endpoint, variant, value)
        elif kind == "refused":
            self.refuse(*rest)
        elif kind == "all":
            first, *others = map(tuple, rest)
            self._count_again(first, value, second)
            for other in others:
                self._count_again(other, 1, 0)

    def _fail_open(self) -> None:
        """Count requests without a result as failed: their router is gone, and so are their callers."""
        for tally in self._tallies.values():
            for _ in range(tally.open if tally.tracked else 0):
                tally.failed(tally.share, 503, by_model=False, model_us=None, overhead_us=None)
        for (kind, endpoint, variant), expected in list(self._expected.items()):
            if kind == SHADOW and expected.count > 0:
                self.note(SHADOW, endpoint, variant, "shutdown", expected.count)  # which sets it to 0


def read_back(found: Read) -> tuple[list[dict[str, Any]], dict[tuple[str, str, str], int]]:
    """Say what a killed router has counted and not handed over, as far as it knew.

    Args:
        found: Its journal.

    Returns:
        Batches as :meth:`Ledger.next_batch` makes them, to be recorded under the router's own boot: those
        recorded already are known by their sequence.  And how many records were to come out of its spools, by
        (kind, endpoint, variant).
    """
    ledger = Ledger()
    ledger._restore(found.snapshot)
    for name, value, second in found.entries:
        ledger._count_again(name, value, second)
    ledger._fail_open()
    at_s = found.at_s
    ledger.close_second(at_s)
    batches = []
    while (batch := ledger.next_batch(at_s)) is not None:
        batches.append(batch)
        ledger.acknowledge(batch["seq"])
    expected = ledger._expected.items()
    return batches, {whose: one.count for whose, one in expected if one.count and whose[0] in SPOOLED}

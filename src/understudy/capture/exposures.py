"""Exposures from the log of assignments: users of sticky endpoints, and requests whose outcome is due.

Owns what counts as one exposure and when its outcome is looked at: once, when it is older than the policy's
label window; an outcome that is not there by then counts as none.  Refuses exposures without an id, which no
outcome can be of.  Main class: :class:`ExposureReader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from understudy.analysis.bets import Unit
from understudy.analysis.evidence import Batch, Evidence
from understudy.analysis.routed import ERRORS, Extra
from understudy.analysis.shares import Tallies, Tally, tallies_of
from understudy.core.assignment import Assignment, KeptAssignment
from understudy.core.judgements import Judgement, Pair, UnitBook
from understudy.core.outcomes import KeptOutcome
from understudy.core.policies import Measure, MetricRule, Policy
from understudy.core.ports import Assignments, Outcomes
from understudy.core.stages import RANDOMISED, Source, Stage

AT_ONCE = 2000
_CLIENT_GONE = 499
_MODEL_ERROR = 424


@dataclass
class _Books:
    """What is remembered of one judgement's users; read again from the log after a restart."""

    identity: str
    users: UnitBook = field(default_factory=UnitBook)
    exposed: UnitBook = field(default_factory=UnitBook)


class ExposureReader:
    """Reads one log for all judgements."""

    def __init__(self, assignments: Assignments, outcomes: Outcomes) -> None:
        self._assignments = assignments
        self._outcomes = outcomes
        self._books: dict[str, _Books] = {}

    def forget(self, judgement: str) -> None:
        """Let go of a judgement's users."""
        self._books.pop(judgement, None)

    def read(
        self,
        judgement: Judgement,
        evidence: Evidence,
        policy: Policy,
        stages: Mapping[int, Stage],
        now_s: float,
    ) -> Extra:
        """Read what is new in the log for a judgement.

        Args:
            stages: Of the endpoint.
        """
        users, users_to = Batch(0), judgement.users_to
        if any(stage.sticky for stage in stages.values() if stage.number >= judgement.first_stage):
            users, users_to = self._count_users(judgement, evidence, policy, stages)
        due, exposed_to = self._look_at_outcomes(judgement, policy, stages, now_s)
        both = Batch(
            0,
            rates={**users.rates, **due.rates},
            latencies=users.latencies,
            units=due.units,
            checks={**users.checks, **due.checks},
        )
        return Extra(both, exposed_to, users_to)

    # --- users of sticky endpoints -------------------------------------------------------------------

    def _count_users(
        self, judgement: Judgement, evidence: Evidence, policy: Policy, stages: Mapping[int, Stage]
    ) -> tuple[Batch, int]:
        """Count new users, and users with their first failure."""
        book = self._caught_up(judgement, stages, judgement.users_to, "users")
        pair = judgement.pair
        found: list[Tally] = []
        firsts: list[tuple[Tally, float]] = []
        for kept in self._assignments.read(judgement.pair.endpoint, book.position, AT_ONCE):
            book.position = kept.sequence
            one = kept.assignment
            share = _share(judgement, stages, one)
            if share is None or one.unit is None:
                continue
            change = book.note(one.unit, one.stage, pair.treatment.is_of(one), _failed(one))
            if change is None:
                continue
            stage, treated, requests, events = change
            first_share = pair.share(stages[stage])
            assert first_share is not None  # it was noted in that stage
            found.append(_counted(stage, first_share, treated, requests, events))
            if requests and one.model_latency_us is not None:
                firsts.append((_counted(stage, first_share, treated, 1, 1), float(one.model_latency_us)))
        rates: dict[str, Tallies] = {}
        if found and any(rule.metric == ERRORS and rule.measure is Measure.RATE for rule in policy.rules):
            rates[ERRORS] = tallies_of(found)
        checks = {"assigned": _without_events(found)} if found else {}
        latencies = {
            metric.rule.metric: tuple(
                tallies_of(
                    tally if latency_us > threshold else _without_events([tally])[0]
                    for tally, latency_us in firsts
                )
                for threshold in metric.thresholds_us
            )
            for metric in evidence.metrics
            if metric.thresholds_us and firsts
        }
        return Batch(0, rates=rates, latencies=latencies, checks=checks), book.position

    def _caught_up(
        self, judgement: Judgement, stages: Mapping[int, Stage], position: int, which: str
    ) -> UnitBook:
        """Return the users known at a position of the log; after a restart they are read again."""
        books = self._books.get(judgement.name)
        if books is None or books.identity != judgement.pair.identity:
            books = self._books[judgement.name] = _Books(judgement.pair.identity)
        book: UnitBook = getattr(books, which)
        if book.position > position:  # what was read was not committed
            book = UnitBook()
            setattr(books, which, book)
        while book.position < position:
            rows = self._assignments.read(judgement.pair.endpoint, book.position, AT_ONCE)
            for kept in rows:
                if kept.sequence > position:
                    break
                one = kept.assignment
                if one.unit is not None and _share(judgement, stages, one) is not None:
                    book.note(one.unit, one.stage, judgement.pair.treatment.is_of(one), _failed(one))
                book.position = kept.sequence
            else:
                if rows:
                    continue
            book.position = position
        return book

    # --- outcomes ------------------------------------------------------------------------------------

    def _look_at_outcomes(
        self, judgement: Judgement, policy: Policy, stages: Mapping[int, Stage], now_s: float
    ) -> tuple[Batch, int]:
        """Look at the outcomes of exposures that have become older than the label window."""
        rules = [rule for rule in policy.rules if is_of_outcomes(rule)]
        if not rules or policy.label_window_s <= 0.0:
            return Batch(0), judgement.exposed_to
        book = self._caught_up(judgement, stages, judgement.exposed_to, "exposed")
        due: list[tuple[Assignment, str, float]] = []
        for kept in self._due(judgement, book.position, now_s - policy.label_window_s):
            book.position = kept.sequence
            one = kept.assignment
            share = _share(judgement, stages, one)
            if share is None:
                continue
            if stages[one.stage].sticky:
                if one.unit is None or one.unit in book.seen:
                    continue
                book.note(one.unit, one.stage, judgement.pair.treatment.is_of(one), False)
                due.append((one, one.unit, share))
            elif one.inference_id or one.event_id:
                due.append((one, one.inference_id or one.event_id or "", share))
        if not due:
            return Batch(0), book.position
        rates: dict[str, Tallies] = {}
        units: dict[str, Sequence[Unit]] = {}
        for rule in rules:
            values = self._values(judgement.pair, rule, due)
            treated = [judgement.pair.treatment.is_of(one) for one, _, _ in due]
            if rule.measure is Measure.RATE:
                rates[rule.metric] = tallies_of(
                    _counted(one.stage, share, is_treated, 1, int(value > 0.0))
                    for (one, _, share), is_treated, value in zip(due, treated, values, strict=True)
                )
            else:
                units[rule.metric] = [
                    Unit(share, is_treated, value)
                    for (_, _, share), is_treated, value in zip(due, treated, values, strict=True)
                ]
        return Batch(0, rates=rates, units=units), book.position

    def _due(self, judgement: Judgement, after: int, before_s: float) -> list[KeptAssignment]:
        """Return rows up to the first that is too young: the rest waits."""
        first = self._assignments.read(judgement.pair.endpoint, after, 1)
        if not first or first[0].assignment.at_s >= before_s:  # nearly always: the rest need not be read
            return []
        rows = self._assignments.read(judgement.pair.endpoint, after, AT_ONCE)
        for place, kept in enumerate(rows):
            if kept.assignment.at_s >= before_s:
                return rows[:place]
        return rows

    def _values(
        self, pair: Pair, rule: MetricRule, due: Sequence[tuple[Assignment, str, float]]
    ) -> list[float]:
        """Return the outcome of each exposure; 0 where none was reported in time."""
        by_unit = [key for one, key, _ in due if one.unit is not None and key == one.unit]
        by_id = {id_ for one, _, _ in due for id_ in (one.inference_id, one.event_id) if id_}
        found = self._outcomes.find(pair.endpoint, rule.metric, by_id)
        of_units = self._outcomes.find(pair.endpoint, rule.metric, by_unit, "unit") if by_unit else {}
        return [
            _number(of_units.get(key) or found.get(one.inference_id or "") or found.get(one.event_id or ""))
            for one, key, _ in due
        ]


def is_of_outcomes(rule: MetricRule) -> bool:
    """Tell whether a metric is counted from outcomes that are reported."""
    if rule.cloudwatch is not None:
        return False
    return rule.measure is Measure.MEAN or (rule.measure is Measure.RATE and rule.metric != ERRORS)


def _number(kept: KeptOutcome | None) -> float:
    value = 0.0 if kept is None else kept.outcome.value
    return value if isinstance(value, float) else 0.0


def _share(judgement: Judgement, stages: Mapping[int, Stage], one: Assignment) -> float | None:
    """Return the treatment's share of an exposure that counts; None of one that does not."""
    stage = stages.get(one.stage)
    pair = judgement.pair
    if stage is None or one.stage < judgement.first_stage or one.source not in RANDOMISED:
        return None
    if stage.sticky and one.source != Source.UNIT:
        return None
    if not (pair.control.is_of(one) or pair.treatment.is_of(one)):
        return None
    return pair.share(stage)


def _failed(one: Assignment) -> bool:
    return one.status >= 500 or one.status in (_MODEL_ERROR, _CLIENT_GONE)


def _counted(stage: int, share: float, treated: bool, requests: int, events: int) -> Tally:
    if treated:
        return Tally(stage, share, 0, events, 0, requests)
    return Tally(stage, share, events, 0, requests, 0)


def _without_events(tallies: Iterable[Tally]) -> Tallies:
    return tallies_of(
        Tally(one.stage, one.pi, 0, 0, one.control_requests, one.treatment_requests) for one in tallies
    )

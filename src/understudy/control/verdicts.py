"""The loop that judges: reads the logs, brings each judgement up to date, tells what changed.

Owns the order of steps: evidence and positions in the logs are committed together, with the event of a
changed decision and the inputs that it was decided from; then the evidence is published as metrics.  A
controller that is killed anywhere in between goes on from the last commit.  Main class: :class:`VerdictLoop`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from understudy.analysis.routed import Extra
from understudy.capture.judging import UNREADABLE, Judge, Judged, decided, policy_for, readable
from understudy.core.endpoints import Endpoint
from understudy.core.errors import Conflict
from understudy.core.judgements import EndpointPolicy, Judgement, Pair, VerdictInputs, pairs_of
from understudy.core.metrics import Datum, SeriesKey, Summary
from understudy.core.names import Place
from understudy.core.ports import Clock, Delete, Event, Put, Query, Records, Series, Stages, Stored
from understudy.core.stages import Stage
from understudy.core.verdicts import Verdict

log = logging.getLogger(__name__)

NAMESPACE = "Understudy/Verdicts"
PUBLISH_EVERY_S = 1.0  # of the server's time
ROUNDS = 20  # of one judgement per tick, when it has much to catch up with
# Rows of requests that ended while the last of an arm's instances drained.
LINGERS_S = 90.0

_T = TypeVar("_T")
LabelEvidence = Callable[[Judged], Extra | None]


@dataclass(frozen=True)
class LiveJudgement:
    """A judgement of two arms that serve now, and the stage that is open."""

    judged: Judged
    stage: Stage


def no_labels(_: Judged) -> Extra | None:
    """Where nobody reads captured answers."""
    return None


class VerdictLoop:
    """One per controller.

    Args:
        label_evidence: Returns what was found in captured answers and labels since it was asked last.
    """

    def __init__(
        self,
        records: Records,
        stages: Stages,
        judge: Judge,
        series: Series,
        clock: Clock,
        place: Place,
        label_evidence: LabelEvidence = no_labels,
    ) -> None:
        self._records = records
        self._stages = stages
        self._judge = judge
        self._series = series
        self._clock = clock
        self._place = place
        self._label_evidence = label_evidence
        self._known: dict[str, tuple[Judged, int]] | None = None
        self._published: dict[str, float] = {}
        self._live: dict[str, Stage] = {}
        self._policies: dict[str, EndpointPolicy] = {}
        self._broken: dict[str, str] = {}
        self._unreadable: dict[str, int] = {}

    def tick(self) -> bool:
        """Bring all judgements up to date; tell whether more is waiting."""
        try:
            return self._tick()
        except BaseException:
            self._known = None  # what is on disk counts, as after a crash
            raise

    def live(self) -> list[LiveJudgement]:
        """Return the judgements of arms that serve now, as they were left by :meth:`tick`."""
        return [
            LiveJudgement(self._load()[name][0], stage)
            for name, stage in self._live.items()
            if name in self._load()
        ]

    def _tick(self) -> bool:
        now_s = self._clock.now_s()
        known = self._load()
        # All at once: five times a second, one by one they are most of what an idle server does.
        self._policies = {one.value.name: one.value for one in self._records.find(EndpointPolicy, Query())}
        live: dict[str, Stage] = {}
        more = False
        for stage in self._stages.open():
            for pair in pairs_of(stage):
                live[pair.name] = stage
                more |= self._attempt(pair.name, self._follow, pair, now_s)
        for name, (judged, _) in list(known.items()):
            if name not in live and judged.judgement.ended_at_s is None:
                more |= self._attempt(name, self._finish, judged, now_s)
        self._live = live
        self._publish(live, now_s)
        return more

    def _attempt(self, name: str, work: Callable[[_T, float], bool], about: _T, now_s: float) -> bool:
        """Bring one judgement up to date; one that can't be stops no other.

        Errors of the stores stop the round: they are everybody's.
        """
        try:
            more = work(about, now_s)
        except UNREADABLE as error:
            if self._broken.get(name) != repr(error):  # told once, not five times a second
                self._broken[name] = repr(error)
                log.exception("the judgement %s can't be brought up to date", name)
            return False
        self._broken.pop(name, None)
        return more

    def _load(self) -> dict[str, tuple[Judged, int]]:
        if self._known is None:
            known: dict[str, tuple[Judged, int]] = {}
            self._unreadable = {}
            for stored in self._records.find(Judgement, Query()):
                judged = readable(stored.value)
                if judged is None:
                    self._unreadable[stored.value.name] = stored.version
                else:
                    known[stored.value.name] = (judged, stored.version)
            self._known = known
        return self._known

    def _follow(self, pair: Pair, now_s: float) -> bool:
        """Bring one pair's judgement up to date, beginning it where there is none."""
        policy = policy_for(pair, self._policies.get(pair.endpoint))
        held = self._load().get(pair.name)
        if held is None or held[0].judgement.pair != pair or held[0].judgement.ended_at_s is not None:
            begun = self._judge.begin(pair, policy, now_s)
            if begun is None:
                return False
            self._judge.forget(pair.name)
            # One that can't be read is counted again from the logs.
            version = self._unreadable.pop(pair.name, 0) if held is None else held[1]
            self._commit(begun, version, None, now_s)
        elif not held[0].policy.decides_as(policy):
            # Evidence for other promises begins with the next request: what was seen can't be promised.
            begun = self._judge.begin(pair, policy, now_s)
            if begun is None:
                return False
            before = held[0].judgement
            # Minutes of PutMetricData are not cut in two: where nothing was seen yet, nothing is left out.
            whole = not before.batches and any(rule.cloudwatch for rule in policy.rules)
            moved = replace(
                begun.judgement,
                counted_to=before.counted_to,
                exposed_to=before.exposed_to,
                users_to=before.users_to,
                started_at_s=begun.judgement.started_at_s if whole else now_s,
            )
            self._commit(replace(begun, judgement=moved), held[1], held[0], now_s)
        elif held[0].policy != policy:
            self._commit(replace(held[0], policy=policy), held[1], held[0], now_s)
        return self._catch_up(pair.name, now_s)

    def _catch_up(self, name: str, now_s: float) -> bool:
        more = True
        for _ in range(ROUNDS):
            judged, version = self._load()[name]
            changed, more = self._judge.catch_up(judged, now_s, self._label_evidence(judged))
            if changed is judged:
                return False
            self._commit(changed, version, judged, now_s)
            if not more:
                return False
        return more

    def _finish(self, judged: Judged, now_s: float) -> bool:
        """Take what still comes of a pair that is apart; end it when nothing more will."""
        name, pair = judged.judgement.name, judged.judgement.pair
        if self._records.get(Endpoint, pair.endpoint) is None:
            _, version = self._load().pop(name)
            self._judge.forget(name)
            self._records.commit([Delete(Judgement, name, version), *self._forgotten_inputs(pair.endpoint)])
            return False
        more = self._catch_up(name, now_s)
        newest, version = self._load()[name]
        if not more and now_s >= newest.judgement.modified_at_s + LINGERS_S:
            ended = replace(newest, judgement=replace(newest.judgement, ended_at_s=now_s))
            self._commit(ended, version, newest, now_s)
            self._judge.forget(name)
        return more

    def _forgotten_inputs(self, endpoint: str) -> list[Delete]:
        found: list[Stored[VerdictInputs]] = self._records.find(VerdictInputs, Query(status=endpoint))
        return [Delete(VerdictInputs, one.value.name, one.version) for one in found]

    def _commit(self, judged: Judged, version: int, before: Judged | None, now_s: float) -> None:
        """Keep a judgement; where its decision changed, with the event and what it was decided from."""
        judged, verdict = decided(judged, now_s)
        changes: list[Put | Delete | Event] = [Put(judged.stored(), version)]
        was = "HOLD" if before is None else before.judgement.decision
        if judged.judgement.decision != was:
            changes += decision_changed(self._records, self._place, judged, verdict, was)
        try:
            self._records.commit(changes)
        except Conflict:
            self._known = None
            raise
        self._load()[judged.judgement.name] = (judged, version + 1)

    # --- metrics -------------------------------------------------------------------------------------

    def _publish(self, live: Mapping[str, Stage], now_s: float) -> None:
        """Tell CloudWatch what each live judgement weighs, once a second."""
        data: list[Datum] = []
        for name in live:
            held = self._load().get(name)
            if held is None or now_s < self._published.get(name, 0.0) + PUBLISH_EVERY_S:
                continue
            self._published[name] = now_s
            data += evidence_data(held[0].judgement.pair, held[0].verdict(), int(now_s))
        for name in self._published.keys() - live.keys():
            del self._published[name]
        if data:
            self._series.record(data)


def decision_changed(
    records: Records, place: Place, judged: Judged, verdict: Verdict, was: str
) -> Iterable[Put | Event]:
    """Return what is kept of a changed decision: the event, and what it was decided from."""
    pair, now_s = judged.judgement.pair, judged.judgement.modified_at_s
    log.info("verdict of %s: %s, before %s: %s", pair.name, verdict.decision, was, verdict.reason)
    detail = {
        "from": was,
        "to": str(verdict.decision),
        "reason": verdict.reason,
        "kind": pair.kind,
        "control": str(pair.control),
        "treatment": str(pair.treatment),
        "replay": verdict.replay,
    }
    yield Event(place.arn("endpoint", pair.endpoint), "VerdictChanged", now_s, detail)
    if records.get(VerdictInputs, verdict.replay) is None:
        name, decision = judged.judgement.name, str(verdict.decision)
        yield Put(VerdictInputs(verdict.replay, name, judged.inputs(), decision, now_s, now_s, kept=True), 0)


def evidence_data(pair: Pair, verdict: Verdict, at_s: int) -> list[Datum]:
    """Render a verdict's evidence as metrics of the treatment, with and without its configuration.

    Effects and their intervals are told by metric (dimension ``Metric``), where there is something to tell.
    """
    plain = (("EndpointName", pair.endpoint), ("VariantName", pair.treatment.variant))
    of_config = (("EndpointConfigName", pair.treatment.config_name), *plain)
    values = (
        ("HarmEvidenceLog10", verdict.harm_log10),
        ("NonInferiorityEvidenceLog10", verdict.noninferiority_log10),
        ("PromoteEvidenceLog10", verdict.promote_log10),
    )
    told: list[tuple[str, float, tuple[tuple[str, str], ...]]] = [
        (name, value, dimensions) for name, value in values for dimensions in (plain, of_config)
    ]
    for row in verdict.evidence:
        of_metric = (*of_config, ("Metric", row["metric"]))
        low, high = row["interval"] or (None, None)
        effects = (("Effect", row["effect"]), ("EffectLow", low), ("EffectHigh", high))
        told += [(name, value, of_metric) for name, value in effects if value is not None]
    return [
        Datum(SeriesKey(NAMESPACE, name, tuple(sorted(dimensions))), at_s, "None", Summary.of([value]))
        for name, value, dimensions in told
    ]

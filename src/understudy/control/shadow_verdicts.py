"""The loop that judges shadows: pairs of captured answers are read from time to time, changes are told.

Owns when a shadow is looked at, and that a changed decision is committed with its event and with what it was
decided from.  Reading spends a twentieth of its time at most; in a thread of its own, so that nothing waits
for it.  Main class: :class:`ShadowVerdicts`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from understudy.analysis.evidence import evidence_from_json
from understudy.capture.judging import UNREADABLE, Judged
from understudy.capture.shadow_pairs import (
    ShadowStores,
    judge_shadow,
    policy_for_shadow,
    shadow_judgement_name,
)
from understudy.control.verdicts import PUBLISH_EVERY_S, decision_changed, evidence_data
from understudy.core.endpoints import Endpoint, Fleet, FleetVariant
from understudy.core.errors import ApiError, Conflict
from understudy.core.judgements import EndpointPolicy, ShadowJudgement
from understudy.core.metrics import Datum
from understudy.core.names import Place
from understudy.core.policies import Policy, parse_policy
from understudy.core.ports import Clock, Delete, Event, Put, Query, Records, Stored

log = logging.getLogger(__name__)

AT_LEAST_EVERY_S = 5.0  # of real time
REST_FACTOR = 20.0


@dataclass(frozen=True)
class _OnTrial:
    """One shadow that serves, and who answers the requests of which it gets copies."""

    endpoint: str
    fleet: Fleet
    control: FleetVariant
    shadow: FleetVariant
    policy: Policy

    @property
    def name(self) -> str:
        return shadow_judgement_name(self.endpoint, self.control.name, self.shadow.name)


class ShadowVerdicts:
    """One per controller."""

    def __init__(self, records: Records, stores: ShadowStores, clock: Clock, place: Place) -> None:
        self._records = records
        self._stores = stores
        self._clock = clock
        self._place = place
        self._due_s: dict[str, float] = {}
        self._newest: dict[str, Judged] = {}
        self._published_s = 0.0
        self._broken: dict[str, str] = {}

    def tick(self) -> bool:
        """Look at the shadows that are due, and tell what is known of all."""
        on_trial = {one.name: one for one in self._on_trial()}
        for stored in self._records.find(ShadowJudgement, Query()):
            if stored.value.name not in on_trial:
                self._commit([Delete(ShadowJudgement, stored.value.name, stored.version)])
        for kept in (self._newest, self._due_s, self._broken):
            for name in kept.keys() - on_trial.keys():
                del kept[name]
        for name, one in on_trial.items():
            began_s = time.monotonic()
            # Not in the first round, for which the server's start waits.
            if began_s < self._due_s.setdefault(name, began_s + AT_LEAST_EVERY_S):
                continue
            self._attempt(one)
            self._due_s[name] = began_s + max(AT_LEAST_EVERY_S, REST_FACTOR * (time.monotonic() - began_s))
        self._publish()
        return False

    def _on_trial(self) -> Iterator[_OnTrial]:
        """Find every shadow whose answers are captured; its control is the configuration's first variant."""
        for stored in self._records.find(Endpoint, Query()):
            endpoint = stored.value
            fleet = endpoint.fleet
            if fleet is None or fleet.capture is None or not fleet.capture.outputs:
                continue
            production = [one for one in fleet.variants if not one.shadow]
            shadows = [one for one in fleet.variants if one.shadow]
            if not production or not shadows:
                continue
            kept = self._records.get(EndpointPolicy, endpoint.name)
            policy = policy_for_shadow(None if kept is None else parse_policy(kept.value.policy))
            for shadow in shadows:
                yield _OnTrial(endpoint.name, fleet, production[0], shadow, policy)

    def _attempt(self, one: _OnTrial) -> None:
        """Judge one; one that can't be keeps no other waiting."""
        try:
            self._judge(one)
        except (*UNREADABLE, ApiError) as error:
            if self._broken.get(one.name) != repr(error):  # told once
                self._broken[one.name] = repr(error)
                log.warning("the shadow %s can't be judged: %r", one.name, error)
            return
        self._broken.pop(one.name, None)

    def _judge(self, one: _OnTrial) -> None:
        now_s = self._clock.now_s()
        stored: Stored[ShadowJudgement] | None = self._records.get(ShadowJudgement, one.name)
        before = None if stored is None else stored.value
        judged, _ = judge_shadow(
            self._stores, one.endpoint, one.fleet, one.control, one.shadow, one.policy, now_s, before
        )
        same = (
            before is not None
            and before.pair == judged.judgement.pair
            and parse_policy(before.policy) == judged.policy
        )
        if before is not None and same and evidence_from_json(before.evidence) == judged.evidence:
            self._newest[one.name] = judged
            return
        was = before.decision if before is not None and same else "HOLD"
        changes: list[Put | Delete | Event] = [Put(judged.stored(), 0 if stored is None else stored.version)]
        if judged.judgement.decision != was:
            changes += decision_changed(self._records, self._place, judged, judged.verdict(), was)
        if self._commit(changes):
            self._newest[one.name] = judged

    def _commit(self, changes: list[Put | Delete | Event]) -> bool:
        try:
            self._records.commit(changes)
        except Conflict:  # the next round sees what became of it
            return False
        return True

    def _publish(self) -> None:
        """Tell CloudWatch what each shadow's evidence weighs, once a second."""
        now_s = self._clock.now_s()
        if now_s < self._published_s + PUBLISH_EVERY_S:
            return
        self._published_s = now_s
        data: list[Datum] = []
        for judged in self._newest.values():
            data += evidence_data(judged.judgement.pair, judged.verdict(), int(now_s))
        if data:
            self._stores.series.record(data)

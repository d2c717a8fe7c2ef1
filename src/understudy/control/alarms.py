"""The loop that evaluates alarms: reads what is due, judges, saves the state with its history and actions.

Owns when an alarm is looked at.  A period is judged shortly after it ended, once routers have told what
they counted in it, and once more for what came late; then with every step (a minute, or ten seconds for
periods below a minute).  Nothing is kept here that a restart needs.
Main method: :meth:`AlarmLoop.tick`, called in a thread of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from understudy.core.alarm_data import Read, period_s_of, read_datapoints, rule_of, step_s_of
from understudy.core.alarm_evaluation import evaluate
from understudy.core.alarm_expressions import children_of, is_true, parse_rule, read_by
from understudy.core.alarm_suppression import SuppressionSnapshot, suppression
from understudy.core.alarm_transitions import ActionRules, actions_for, transition
from understudy.core.alarm_wording import (
    composite_reason,
    composite_reason_data,
    metric_reason,
    metric_reason_data,
)
from understudy.core.alarms import Alarm, AlarmState, alarm_name_of
from understudy.core.errors import Conflict
from understudy.core.metric_values import MathError
from understudy.core.metrics import Bucket, SeriesKey
from understudy.core.models import Tags
from understudy.core.ports import Clock, Event, Put, Query, Records, Series, Stored

log = logging.getLogger(__name__)

SETTLE_S = 0.5  # real seconds after a period's end until routers have told and it is written: 0.1 to 0.4
LATE_S = 2.0  # and until what came late is there
MOVES_PER_COMMIT = 100
HELD_S = 2.0  # a state set by hand is not evaluated away before others could see it


Move = tuple[Stored[Alarm], Alarm, Sequence[Put | Event]]
"""An alarm's record, the alarm in its new state, and what is committed along with it."""


class AlarmLoop:
    """Leads every alarm through its states.

    Args:
        rules: What actions need to know.
        time_scale: Clock seconds per real second; routers tell in real time.
        on_change: Called after states were saved.
    """

    def __init__(
        self,
        records: Records,
        series: Series,
        clock: Clock,
        rules: ActionRules,
        on_change: Callable[[], None],
        *,
        time_scale: float = 1.0,
    ) -> None:
        self._records = records
        self._series = series
        self._clock = clock
        self._rules = rules
        self._on_change = on_change
        self._scale = time_scale
        self._alarms: dict[str, Stored[Alarm]] = {}
        self._looked: dict[int, tuple[int, int]] = {}  # by step: the ends of what was looked at, both looks
        self._put_at_s: dict[str, float] = {}  # by alarm: the put that was looked at
        self._soon: set[str] = set()  # put anew, or set by hand: due whatever the time

    def tick(self, *, reread: bool) -> bool:
        """Do one round.

        Args:
            reread: The store may have changed since the last round.
        Returns:
            Whether anything was saved.
        """
        if reread:
            self._alarms = {stored.value.name: stored for stored in self._records.find(Alarm, Query())}
            self._put_at_s = {name: at for name, at in self._put_at_s.items() if name in self._alarms}
            metric_alarms = [one.value for one in self._alarms.values() if not one.value.composite]
            self._soon = {
                alarm.name
                for alarm in metric_alarms
                if self._put_at_s.get(alarm.name) != alarm.configured_at_s or self._is_held(alarm)
            }
        read = _cached(self._series.read)
        moves = (self._evaluate_metric(self._alarms[name], read) for name in self._due())
        changed = self._save_all([move for move in moves if move is not None])
        if changed or reread or self._waiting_composites():
            changed = self._evaluate_composites() or changed
        if changed:
            self._on_change()
        return changed

    # --- which ---------------------------------------------------------------------------------------

    def _due(self) -> list[str]:
        """Name the metric alarms to look at now."""
        now_s = self._clock.now_s()
        stepping = set()
        for step_s in (10, 60):
            looks = tuple(
                math.floor((now_s - wait_s * self._scale) / step_s) for wait_s in (SETTLE_S, LATE_S)
            )
            if self._looked.get(step_s) != looks:
                self._looked[step_s] = (looks[0], looks[1])
                stepping.add(step_s)
        if not stepping:
            return list(self._soon)
        return [
            name
            for name, stored in self._alarms.items()
            if name in self._soon
            or (not stored.value.composite and step_s_of(period_s_of(stored.value.request)) in stepping)
        ]

    def _is_held(self, alarm: Alarm) -> bool:
        since_s = self._clock.now_s() - alarm.hand_set_at_s
        return 0.0 <= since_s < HELD_S * self._scale

    def _waiting_composites(self) -> bool:
        return any(stored.value.suppressed_by is not None for stored in self._alarms.values())

    # --- metric alarms -------------------------------------------------------------------------------

    def _evaluate_metric(self, stored: Stored[Alarm], read: Read) -> Move | None:
        alarm = stored.value
        self._put_at_s[alarm.name] = alarm.configured_at_s
        if self._is_held(alarm):
            self._soon.add(alarm.name)
            return None
        self._soon.discard(alarm.name)
        rule = rule_of(alarm.request)
        step_s = step_s_of(rule.period_s)
        end_s = math.floor((self._clock.now_s() - SETTLE_S * self._scale) / step_s) * step_s
        try:
            datapoints = read_datapoints(alarm.request, read, end_s)
        except MathError as error:
            log.warning("alarm %s can't be computed: %s", alarm.name, error)
            datapoints = []
        judged = evaluate(rule, datapoints, end_s)
        if judged.state is None or judged.state is alarm.state:
            return None
        now_s = self._clock.now_s()
        after, changes = transition(
            alarm,
            judged.state,
            metric_reason(rule, judged, judged.state),
            metric_reason_data(rule, judged, alarm.request, now_s),
            now_s,
        )
        return stored, after, [*changes, *self._actions(stored, after, now_s)]

    def _actions(self, stored: Stored[Alarm], after: Alarm, now_s: float) -> Sequence[Put | Event]:
        tags = self._records.get(Tags, after.arn)
        return actions_for(
            after,
            stored.value.state,
            stored.version + 1,
            self._rules,
            now_s,
            None if tags is None else tags.value.tags,
        )

    def _save_all(self, moves: Sequence[Move]) -> bool:
        """Save moves, many in one commit: an outage that moves a thousand alarms costs a few syncs."""
        saved = False
        for at in range(0, len(moves), MOVES_PER_COMMIT):
            batch = moves[at : at + MOVES_PER_COMMIT]
            if self._save(batch):
                saved = True
                continue
            for move in batch:  # one that was changed meanwhile must not keep the others back
                saved = self._save([move]) or saved
        return saved

    def _save(self, moves: Sequence[Move]) -> bool:
        changes: list[Put | Event] = []
        for stored, after, more in moves:
            changes += [Put(after, stored.version), *more]
        try:
            self._records.commit(changes)
        except Conflict:
            # Changed or deleted meanwhile: whoever did that has nudged, the next round reads it.
            return False
        for stored, after, _ in moves:
            log.info("alarm %s: %s -> %s: %s", after.name, stored.value.state, after.state, after.reason)
            self._alarms[after.name] = Stored(after, stored.version + 1)
        return True

    # --- composite alarms ----------------------------------------------------------------------------

    def _evaluate_composites(self) -> bool:
        """Bring composite alarms to rest, inner ones first: an outer one never sees half of a change."""
        moved = [name for name in self._inner_first() if self._evaluate_composite(self._alarms[name])]
        return bool(moved)

    def _inner_first(self) -> list[str]:
        """Order composite alarms so that each comes after those it reads."""
        reads = {
            name: [child for child in read_by(stored.value) if child in self._alarms]
            for name, stored in self._alarms.items()
            if stored.value.composite
        }
        order: list[str] = []
        while reads:
            ready = [name for name, children in reads.items() if not reads.keys() & children]
            # There is no circle: PutCompositeAlarm refuses them.  Two puts at once may still have made one.
            for name in ready or list(reads):
                order.append(name)
                del reads[name]
        return order

    def _evaluate_composite(self, stored: Stored[Alarm]) -> bool:
        alarm, now_s = stored.value, self._clock.now_s()
        rule = parse_rule(alarm.request["AlarmRule"])
        children = [self._alarms[name].value for name in children_of(rule) if name in self._alarms]
        cause = max(children, key=lambda child: child.state_transitioned_at_s, default=None)
        newest_s = max(alarm.configured_at_s, 0.0 if cause is None else cause.state_transitioned_at_s)
        state = alarm.state
        if alarm.hand_set_at_s <= newest_s:
            true = is_true(rule, {child.name: child.state for child in children})
            state = AlarmState.ALARM if true else AlarmState.OK
        held_back = self._held_back(alarm, now_s, transitioned=state is not alarm.state)
        if state is alarm.state and held_back == alarm.suppressed_by:
            return False
        after, changes = alarm, list[Put | Event]()
        if state is not alarm.state:
            if cause is not None and cause.state_transitioned_at_s < alarm.configured_at_s:
                cause = None
            triggering = [child for child in children if child.state is AlarmState.ALARM] or (
                [] if cause is None else [cause]
            )
            reason = composite_reason(alarm, state, cause)
            after, changes = transition(alarm, state, reason, composite_reason_data(triggering), now_s)
        if held_back != alarm.suppressed_by:
            after = replace(after, suppressed_by=held_back, suppressed_at_s=now_s)
        if held_back is None:
            changes += self._actions(stored, after, now_s)
        return self._save([(stored, after, changes)])

    def _held_back(self, alarm: Alarm, now_s: float, *, transitioned: bool) -> str | None:
        suppressor = alarm.request.get("ActionsSuppressor")
        if suppressor is None:
            return None
        found = self._alarms.get(alarm_name_of(suppressor))
        return suppression(
            SuppressionSnapshot(
                now_s,
                transitioned,
                alarm.suppressed_by,
                alarm.suppressed_at_s,
                None if found is None else found.value.state,
                alarm.request["ActionsSuppressorWaitPeriod"],
                alarm.request["ActionsSuppressorExtensionPeriod"],
            )
        )


def _cached(read: Read) -> Read:
    """Read each window once per round, however many alarms watch it."""
    known: dict[tuple[SeriesKey, int, int, int], Sequence[Bucket]] = {}

    def cached(key: SeriesKey, start_s: int, end_s: int, period_s: int) -> Sequence[Bucket]:
        asked = (key, start_s, end_s, period_s)
        if asked not in known:
            known[asked] = read(*asked)
        return known[asked]

    return cached

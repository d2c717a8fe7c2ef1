"""The alarm loop on real stores under a clock of its own: when it looks, what it saves, what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.control.alarms import AlarmLoop
from understudy.core.alarm_transitions import ActionRules
from understudy.core.alarms import Alarm, AlarmAction, AlarmState, alarm_arn
from understudy.core.metrics import Bucket, Datum, SeriesKey, Summary
from understudy.core.names import Place
from understudy.core.ports import Delete, Put, Query, Records
from understudy.core.webhooks import parse_webhooks
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_series import MemorySeries
from understudy.stores.records import open_records

MINUTE_S = 1_700_000_040  # a whole minute
KEY = SeriesKey("Mine", "Errors")
OK, ALARM, UNKNOWN = AlarmState.OK, AlarmState.ALARM, AlarmState.INSUFFICIENT_DATA


class SetClock:
    def __init__(self) -> None:
        self.at_s = float(MINUTE_S)

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class CountingSeries(MemorySeries):
    reads = 0

    def read(self, key: SeriesKey, start_s: int, end_s: int, period_s: int) -> list[Bucket]:
        self.reads += 1
        return super().read(key, start_s, end_s, period_s)


class World:
    """A loop and what it lives on; ``restart`` makes a new loop, as after a crash."""

    def __init__(self, records: Records, scale: float = 1.0) -> None:
        self.records = records
        self.series = CountingSeries()
        self.clock = SetClock()
        self.changes = 0
        self.scale = scale
        self.restart()

    def restart(self) -> None:
        rules = ActionRules(Place(), "http://127.0.0.1:8080", parse_webhooks("https://hooks.example/*"))
        self.loop = AlarmLoop(
            self.records, self.series, self.clock, rules, self._changed, time_scale=self.scale
        )
        self._reread = True

    def _changed(self) -> None:
        self.changes += 1

    def put(self, name: str, **members: Any) -> None:
        composite = "AlarmRule" in members
        request: dict[str, Any] = {"AlarmName": name, "ActionsEnabled": True, **members}
        if not composite:
            request = {
                "Namespace": "Mine",
                "MetricName": "Errors",
                "Statistic": "Sum",
                "Period": 60,
                "EvaluationPeriods": 1,
                "Threshold": 1.0,
                "ComparisonOperator": "GreaterThanThreshold",
                **request,
            }
        stored = self.records.get(Alarm, name)
        arn = alarm_arn(Place(), name)
        self.records.commit(
            [Put(Alarm(name, arn, request, composite, self.clock.at_s), stored.version if stored else 0)]
        )
        self._reread = True

    def set_by_hand(self, name: str, state: AlarmState) -> None:
        stored = self.records.get(Alarm, name)
        assert stored is not None
        changed = replace(
            stored.value,
            state=state,
            hand_set_at_s=self.clock.at_s,
            state_transitioned_at_s=self.clock.at_s,
        )
        self.records.commit([Put(changed, stored.version)])
        self._reread = True

    def measure(self, value: float, at_s: float) -> None:
        self.series.record([Datum(KEY, int(at_s), "Count", Summary.of([value]))])

    def tick(self, at_s: float | None = None) -> None:
        if at_s is not None:
            self.clock.at_s = at_s
        self.loop.tick(reread=self._reread)
        self._reread = False

    def state(self, name: str) -> AlarmState:
        return self.alarm(name).state

    def alarm(self, name: str) -> Alarm:
        stored = self.records.get(Alarm, name)
        assert stored is not None
        return stored.value

    def kinds(self, name: str) -> list[str]:
        return [event.kind for event in self.records.events(alarm_arn(Place(), name), 0, 100)]


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    records: Records = (
        MemoryRecords() if request.param == "memory" else open_records(f"sqlite:///{tmp_path / 'r.db'}")
    )
    yield World(records)
    records.close()


def test_a_period_is_judged_within_a_second_of_its_end(world: World) -> None:
    world.put("a")
    world.tick()
    assert world.state("a") is UNKNOWN
    world.measure(5.0, MINUTE_S + 59)
    world.tick(MINUTE_S + 59.9)
    assert world.state("a") is UNKNOWN, "the period has not ended"
    world.tick(MINUTE_S + 60.4)
    assert world.state("a") is UNKNOWN, "routers may not have told everything"
    world.tick(MINUTE_S + 60.6)
    assert world.state("a") is ALARM
    assert world.alarm("a").reason.startswith("Threshold Crossed: 1 datapoint [5.0")
    assert world.kinds("a") == ["AlarmStateUpdate"] and world.changes == 1


def test_late_data_is_seen(world: World) -> None:
    world.put("a", TreatMissingData="notBreaching")
    world.tick(MINUTE_S + 60.6)
    assert world.state("a") is OK
    world.measure(5.0, MINUTE_S + 59)
    world.tick(MINUTE_S + 62.1)
    assert world.state("a") is ALARM


def test_it_goes_back_when_all_is_well(world: World) -> None:
    world.put("a")
    for minute, value in enumerate((5.0, 0.0, 5.0, 0.0)):
        world.measure(value, MINUTE_S + 60 * minute + 30)
        world.tick(MINUTE_S + 60 * minute + 60.6)
        assert world.state("a") is (ALARM if value else OK)
    assert world.kinds("a") == ["AlarmStateUpdate"] * 4


def test_only_what_is_due_is_read_and_windows_are_shared(world: World) -> None:
    for number in range(50):
        world.put(f"a{number}", Threshold=float(number))
    world.tick(MINUTE_S + 60.6)
    assert world.series.reads == 1
    for tenths in range(7, 20):
        world.tick(MINUTE_S + 60 + tenths / 10)
    assert world.series.reads == 1
    world.put("fast", Period=10)
    world.tick(MINUTE_S + 62.1)  # the late look of all
    before = world.series.reads
    world.tick(MINUTE_S + 70.6)
    assert world.series.reads == before + 1, "the fast one only"
    world.tick(MINUTE_S + 120.6)
    assert world.series.reads <= before + 4


def test_long_periods_are_looked_at_every_minute(world: World) -> None:
    world.put("a", Period=300)
    world.measure(5.0, MINUTE_S + 90)
    world.tick(MINUTE_S + 60.6)
    assert world.state("a") is UNKNOWN
    world.tick(MINUTE_S + 120.6)
    assert world.state("a") is ALARM, "its window slides"


def test_a_put_alarm_is_judged_at_once(world: World) -> None:
    world.measure(5.0, MINUTE_S - 30)
    world.tick(MINUTE_S + 20.0)
    world.put("a")
    world.tick(MINUTE_S + 20.1)
    assert world.state("a") is ALARM
    world.put("a", Threshold=9.0)
    world.tick(MINUTE_S + 20.2)
    assert world.state("a") is OK


def test_a_state_set_by_hand_is_visible_for_a_while(world: World) -> None:
    world.put("a", TreatMissingData="notBreaching")
    world.tick(MINUTE_S + 60.6)
    world.set_by_hand("a", ALARM)
    world.tick(MINUTE_S + 61.0)
    world.tick(MINUTE_S + 62.1)
    assert world.state("a") is ALARM
    world.tick(MINUTE_S + 62.7)
    assert world.state("a") is OK


def test_a_restart_goes_on(world: World) -> None:
    world.put("a")
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    world.restart()
    world.tick(MINUTE_S + 60.7)
    assert world.state("a") is ALARM and world.kinds("a") == ["AlarmStateUpdate"]
    world.measure(0.0, MINUTE_S + 90)
    world.restart()
    world.tick(MINUTE_S + 120.6)
    assert world.state("a") is OK


def test_deleted_and_changed_meanwhile(world: World) -> None:
    world.put("a")
    world.put("b")
    world.tick()
    for name in ("a", "b"):
        stored = world.records.get(Alarm, name)
        assert stored is not None
        if name == "a":
            world.records.commit([Delete(Alarm, "a", stored.version)])
        else:
            world.records.commit([Put(replace(stored.value, reason="changed"), stored.version)])
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)  # neither is known to have changed: nothing is written over them
    assert world.records.get(Alarm, "a") is None and world.state("b") is UNKNOWN
    world._reread = True
    world.tick(MINUTE_S + 62.1)
    assert world.state("b") is ALARM


def test_one_that_was_changed_keeps_no_other_back(world: World) -> None:
    for number in range(150):
        world.put(f"a{number}")
    world.tick()
    stored = world.records.get(Alarm, "a7")
    assert stored is not None
    world.records.commit([Delete(Alarm, "a7", stored.version)])
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    states = [one.value.state for one in world.records.find(Alarm, Query())]
    assert states == [ALARM] * 149 and world.kinds("a7") == []


def test_a_clock_that_jumps_back_breaks_nothing(world: World) -> None:
    world.put("a")
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    world.tick(MINUTE_S - 3600.0)
    world.tick(MINUTE_S + 61.0)
    assert world.state("a") is ALARM


def test_time_scale_waits_in_real_time() -> None:
    world = World(MemoryRecords(), scale=20.0)
    world.put("a", TreatMissingData="notBreaching")
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 65.0)
    assert world.state("a") is not ALARM, "half a real second is ten of these"
    world.tick(MINUTE_S + 71.0)
    assert world.state("a") is ALARM


# --- actions -------------------------------------------------------------------------------------------


def test_actions_are_planned_with_the_state(world: World) -> None:
    world.put(
        "a", AlarmActions=["https://hooks.example/x", "arn:aws:sns:us-east-1:1:t", "https://no.example/"]
    )
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    (planned,) = world.records.find(AlarmAction, Query())
    assert planned.value.url == "https://hooks.example/x"
    assert planned.value.message["NewStateValue"] == "ALARM"
    assert world.kinds("a") == ["AlarmStateUpdate", "AlarmAction", "AlarmAction"]
    summaries = [
        event.detail["summary"] for event in world.records.events(None, 0, 10, kinds=["AlarmAction"])
    ]
    assert all("Not delivered" in summary for summary in summaries)


# --- composite alarms ----------------------------------------------------------------------------------


def test_composites_follow_their_children_level_by_level(world: World) -> None:
    world.put("a", TreatMissingData="notBreaching")
    world.tick()
    world.clock.at_s += 1.0
    world.put("inner", AlarmRule="ALARM(a)")
    world.put("an outer one", AlarmRule="NOT OK(inner)")
    world.tick()
    assert (world.state("inner"), world.state("an outer one")) == (OK, OK)
    assert world.kinds("an outer one") == ["AlarmStateUpdate"], "it never saw half of a change"
    assert "alarm rule evaluates to OK" in world.alarm("inner").reason
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    assert (world.state("a"), world.state("inner"), world.state("an outer one")) == (ALARM, ALARM, ALARM)
    assert world.alarm("inner").reason.endswith(
        ":alarm:a transitioned to ALARM at Tuesday 14 November, 2023 22:15:00 UTC"
    )
    (triggering,) = world.alarm("an outer one").reason_data["triggeringAlarms"]
    assert triggering["arn"].endswith(":inner")


def test_a_composite_set_by_hand_stays_until_a_child_moves(world: World) -> None:
    world.put("a", TreatMissingData="notBreaching")
    world.put("c", AlarmRule="ALARM(a)")
    world.tick()
    world.clock.at_s += 5.0
    world.set_by_hand("c", ALARM)
    for later_s in (10.0, 61.0, 121.0):
        world.tick(MINUTE_S + later_s)
        assert world.state("c") is ALARM
    world.measure(5.0, MINUTE_S + 150)
    world.tick(MINUTE_S + 181.0)
    world.tick(MINUTE_S + 241.0)
    assert world.state("c") is ALARM
    world.measure(0.0, MINUTE_S + 270)
    world.tick(MINUTE_S + 301.0)
    assert world.state("c") is OK


def test_suppressed_actions_wait(world: World) -> None:
    world.put("a", TreatMissingData="notBreaching")
    world.put("maintenance", MetricName="Maintenance", TreatMissingData="ignore")
    world.put(
        "c",
        AlarmRule="ALARM(a)",
        ActionsSuppressor="maintenance",
        ActionsSuppressorWaitPeriod=20,
        ActionsSuppressorExtensionPeriod=30,
        AlarmActions=["https://hooks.example/c"],
    )
    world.tick()
    world.tick(MINUTE_S + 25.0)
    world.measure(5.0, MINUTE_S + 30)
    world.tick(MINUTE_S + 60.6)
    assert (world.state("c"), world.alarm("c").suppressed_by) == (ALARM, "WaitPeriod")
    world.set_by_hand("maintenance", ALARM)
    world.tick(MINUTE_S + 61.0)
    assert world.alarm("c").suppressed_by == "Alarm"
    world.restart()
    world.set_by_hand("maintenance", OK)
    world.tick(MINUTE_S + 62.0)
    assert world.alarm("c").suppressed_by == "ExtensionPeriod"
    assert world.records.find(AlarmAction, Query()) == []
    world.tick(MINUTE_S + 91.0)
    assert world.alarm("c").suppressed_by == "ExtensionPeriod"
    world.tick(MINUTE_S + 92.0)
    assert world.alarm("c").suppressed_by is None
    (planned,) = world.records.find(AlarmAction, Query())
    assert planned.value.alarm_name == "c"

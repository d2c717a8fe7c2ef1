"""SetAlarmState, EnableAlarmActions, DisableAlarmActions, DeleteAlarms.

Owns what changes an alarm that is there, other than putting it anew.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from understudy.core.alarm_transitions import ActionRules, actions_for, transition
from understudy.core.alarm_wording import configuration_update
from understudy.core.alarms import Alarm, AlarmState
from understudy.core.errors import ApiError
from understudy.core.models import Tags
from understudy.core.ports import Delete, Event, Put, Stored
from understudy.operations.cloudwatch_alarms import children_by_composite
from understudy.operations.metric_requests import validation_error
from understudy.operations.sagemaker.wording import until_agreed
from understudy.operations.services import Operation, Services


def not_found(names: list[str]) -> ApiError:
    """Make the error of alarms that are not there."""
    return ApiError(f"Alarms not found: {', '.join(names)}", code="ResourceNotFound", status=404)


def set_alarm_state(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Set an alarm's state by hand, with its actions; the next evaluation sets it right.

    Raises:
        ApiError: ResourceNotFound, 404; InvalidFormat, 400: StateReasonData is no JSON.
    """
    name, records = request["AlarmName"], services.records
    data = _reason_data(request.get("StateReasonData"))
    rules = ActionRules(services.place, services.endpoint_url, services.webhooks)

    def attempt() -> None:
        stored = records.get(Alarm, name)
        if stored is None:
            raise not_found([name])
        before, now_s = stored.value, services.clock.now_s()
        after, changes = transition(
            before, AlarmState(request["StateValue"]), request["StateReason"], data, now_s
        )
        after = replace(after, hand_set_at_s=now_s, suppressed_by=None)
        if after.state is not before.state:
            tags = records.get(Tags, before.arn)
            changes += actions_for(
                after,
                before.state,
                stored.version + 1,
                rules,
                now_s,
                tags.value.tags if tags is not None else None,
            )
        records.commit([Put(after, stored.version), *changes])

    until_agreed(attempt)
    services.nudge_alarms()
    services.nudge()  # rollouts that an alarm guards look at once
    return {}


def _reason_data(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ApiError("StateReasonData must be a JSON object.", code="InvalidFormat", status=400)
    return data


def enable_alarm_actions(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Let alarms carry out their actions again."""
    return _set_enabled(services, request["AlarmNames"], enabled=True)


def disable_alarm_actions(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Let alarms change their state without actions."""
    return _set_enabled(services, request["AlarmNames"], enabled=False)


def _set_enabled(services: Services, names: list[str], *, enabled: bool) -> dict[str, Any]:
    """Set ActionsEnabled of all named alarms that there are; CloudWatch passes over unknown names."""
    records = services.records

    def attempt() -> None:
        now_s = services.clock.now_s()
        changes: list[Put | Event] = []
        for name in dict.fromkeys(names):
            stored = records.get(Alarm, name)
            if stored is None or stored.value.request.get("ActionsEnabled", True) is enabled:
                continue
            request = {**stored.value.request, "ActionsEnabled": enabled}
            alarm = replace(stored.value, request=request, configured_at_s=now_s)
            detail = configuration_update(alarm, "updated")
            changes += [
                Put(alarm, stored.version),
                Event(alarm.arn, "AlarmConfigurationUpdate", now_s, detail),
            ]
        if changes:
            records.commit(changes)

    until_agreed(attempt)
    services.nudge_alarms()
    return {}


def delete_alarms(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Forget alarms; their history stays.

    Unknown names keep no others: "The alarms you specify with correct names are still deleted."

    Raises:
        ApiError: ResourceNotFound, 404: there is none of them; ValidationError, 400: two composite alarms at
            once, or a composite alarm that is not deleted along with it depends on one of them.
    """
    names, records = list(dict.fromkeys(request["AlarmNames"])), services.records

    def attempt() -> None:
        found = {name: records.get(Alarm, name) for name in names}
        alarms = [stored for stored in found.values() if stored is not None]
        if not alarms:
            raise not_found(names)
        if sum(stored.value.composite for stored in alarms) > 1:
            raise validation_error("At most one composite alarm can be deleted at a time.")
        _refuse_needed(services, set(names))
        now_s = services.clock.now_s()
        changes: list[Delete | Event] = []
        for stored in alarms:
            changes += _removal(services, stored, now_s)
        records.commit(changes)

    until_agreed(attempt)
    services.nudge_alarms()
    return {}


def _refuse_needed(services: Services, names: set[str]) -> None:
    for composite, children in children_by_composite(services.records).items():
        needed = sorted(names.intersection(children))
        if composite not in names and needed:
            raise validation_error(
                f"Cannot delete {needed[0]} as there are composite alarm(s) depending on it: {composite}."
            )


def _removal(services: Services, stored: Stored[Alarm], now_s: float) -> list[Delete | Event]:
    alarm = stored.value
    changes: list[Delete | Event] = [
        Delete(Alarm, alarm.name, stored.version),
        Event(alarm.arn, "AlarmConfigurationUpdate", now_s, configuration_update(alarm, "deleted")),
    ]
    tags = services.records.get(Tags, alarm.arn)
    if tags is not None:
        changes.append(Delete(Tags, alarm.arn, tags.version))
    return changes


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("cloudwatch", "SetAlarmState"): set_alarm_state,
    ("cloudwatch", "EnableAlarmActions"): enable_alarm_actions,
    ("cloudwatch", "DisableAlarmActions"): disable_alarm_actions,
    ("cloudwatch", "DeleteAlarms"): delete_alarms,
}

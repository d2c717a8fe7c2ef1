"""DescribeAlarms, DescribeAlarmsForMetric and DescribeAlarmHistory.

Owns filters, order and pages of alarms, and how their records are told to clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from understudy.core.alarm_expressions import children_of, parse_rule
from understudy.core.alarm_wording import HISTORY_TYPES
from understudy.core.alarms import ACTIONS_OF, Alarm, alarm_arn
from understudy.core.errors import ApiError
from understudy.core.ports import Event, Query, Records
from understudy.operations.metric_requests import key_of, seconds_of, validation_error
from understudy.operations.page_tokens import page_token, parse_page_token
from understudy.operations.services import Operation, Services

DEFAULT_PAGE = 100
HISTORY_KEPT_S = 30 * 86_400  # "CloudWatch retains the history of an alarm for 30 days"
LONGEST_SUMMARY, LONGEST_DATA = 255, 4095
HISTORY_CHUNK = 500
_SUPPRESSED_REASON = "Actions suppressed by"


def _bad_token() -> ApiError:
    return ApiError("The NextToken is not valid.", code="InvalidNextToken", status=400)


# --- DescribeAlarms ------------------------------------------------------------------------------------


def describe_alarms(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List alarms by name: metric alarms, unless AlarmTypes asks for composite ones.

    Raises:
        ApiError: ValidationError or InvalidNextToken, 400.
    """
    _check_combination(request)
    relatives = request.get("ChildrenOfAlarmName") or request.get("ParentsOfAlarmName")
    if relatives is not None:
        found, render = _relatives(services.records, request)
    else:
        found, render = _chosen(services.records, request), _render
    limit = request.get("MaxRecords", DEFAULT_PAGE)
    after = _after(request.get("NextToken"))
    coming = sorted((alarm for alarm in found if alarm.name > after), key=lambda alarm: alarm.name)
    page = coming[:limit]
    answer: dict[str, Any] = {
        "CompositeAlarms": [render(alarm) for alarm in page if alarm.composite],
        "MetricAlarms": [render(alarm) for alarm in page if not alarm.composite],
    }
    if len(coming) > limit:
        answer["NextToken"] = page_token([page[-1].name])
    return answer


def _check_combination(request: Mapping[str, Any]) -> None:
    if request.get("AlarmNames") and request.get("AlarmNamePrefix") is not None:
        raise validation_error("The parameters AlarmNames and AlarmNamePrefix are mutually exclusive.")
    for member in ("ChildrenOfAlarmName", "ParentsOfAlarmName"):
        others = sorted(
            name
            for name, value in request.items()
            if value not in (None, []) and name not in (member, "MaxRecords", "NextToken")
        )
        if request.get(member) is not None and others:
            raise validation_error(f"The parameter {others[0]} must not be specified with {member}.")


def _after(token: str | None) -> str:
    if token is None:
        return ""
    try:
        (name,) = parse_page_token(token, str)
    except ValueError:
        raise _bad_token() from None
    if name is None:
        raise _bad_token()
    return str(name)


def _chosen(records: Records, request: Mapping[str, Any]) -> list[Alarm]:
    names, prefix = request.get("AlarmNames"), request.get("AlarmNamePrefix", "")
    if names:
        stored = [records.get(Alarm, name) for name in dict.fromkeys(names)]
        alarms = [one.value for one in stored if one is not None]
    else:
        query = Query(name_contains=prefix or None, status=request.get("StateValue"))
        alarms = [one.value for one in records.find(Alarm, query) if one.value.name.startswith(prefix)]
    types = request.get("AlarmTypes") or ["MetricAlarm"]
    state, action = request.get("StateValue"), request.get("ActionPrefix")
    return [
        alarm
        for alarm in alarms
        if ("CompositeAlarm" if alarm.composite else "MetricAlarm") in types
        and state in (None, alarm.state.value)
        and (action is None or any(one.startswith(action) for one in _actions(alarm)))
    ]


def _actions(alarm: Alarm) -> list[str]:
    return [action for member in ACTIONS_OF.values() for action in alarm.request.get(member, [])]


def _relatives(
    records: Records, request: Mapping[str, Any]
) -> tuple[list[Alarm], Callable[[Alarm], dict[str, Any]]]:
    """Find the children or parents of an alarm; CloudWatch tells only some facts of them."""
    parent = request.get("ChildrenOfAlarmName")
    name = parent or request["ParentsOfAlarmName"]
    stored = records.get(Alarm, name)
    if stored is None:
        raise validation_error(f"Alarm {name} does not exist.")
    if parent is not None:
        if not stored.value.composite:
            raise validation_error(f"Alarm {name} is no composite alarm.")
        children = (records.get(Alarm, child) for child in _children(stored.value))
        return [child.value for child in children if child is not None], _render_child
    parents = [
        one.value
        for one in records.find(Alarm, Query())
        if one.value.composite and name in _children(one.value)
    ]
    return parents, lambda alarm: {"AlarmName": alarm.name, "AlarmArn": alarm.arn}


def _children(alarm: Alarm) -> list[str]:
    return children_of(parse_rule(alarm.request["AlarmRule"]))


def _render_child(alarm: Alarm) -> dict[str, Any]:
    return {
        "AlarmName": alarm.name,
        "AlarmArn": alarm.arn,
        "StateValue": alarm.state.value,
        "StateUpdatedTimestamp": alarm.state_updated_at_s,
    }


def _render(alarm: Alarm) -> dict[str, Any]:
    told: dict[str, Any] = {
        **{member: [] for member in ACTIONS_OF.values()},
        **({} if alarm.composite or "Metrics" in alarm.request else {"Dimensions": []}),
        **alarm.request,
        "AlarmArn": alarm.arn,
        "AlarmConfigurationUpdatedTimestamp": alarm.configured_at_s,
        "StateValue": alarm.state.value,
        "StateReason": alarm.reason,
        "StateUpdatedTimestamp": alarm.state_updated_at_s,
        "StateTransitionedTimestamp": alarm.state_transitioned_at_s,
    }
    if alarm.reason_data:
        told["StateReasonData"] = _json(alarm.reason_data, 4000)
    if alarm.suppressed_by is not None:
        told["ActionsSuppressedBy"] = alarm.suppressed_by
        told["ActionsSuppressedReason"] = f"{_SUPPRESSED_REASON} {alarm.suppressed_by}"
    return told


def _json(data: Mapping[str, Any], longest: int) -> str:
    """Render JSON; what is too long is told without its longest parts, so that it stays JSON."""
    kept = json.loads(json.dumps(data))
    while len(text := json.dumps(kept, separators=(",", ":"))) > longest:
        inner = [part for part in kept.values() if isinstance(part, dict) and part]
        parts = [*inner, *([] if inner else [kept])]
        _, place, member = max(
            ((len(json.dumps(part[name])), at, name) for at, part in enumerate(parts) for name in part)
        )
        del parts[place][member]
    return text


# --- DescribeAlarmsForMetric ---------------------------------------------------------------------------


def describe_alarms_for_metric(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List the alarms on one metric; not those that read it in metric math, as on AWS."""
    wanted = key_of(request)
    members = ("Statistic", "ExtendedStatistic", "Period", "Unit")
    asked = {member: request[member] for member in members if request.get(member) is not None}
    found = [
        stored.value
        for stored in services.records.find(Alarm, Query())
        if stored.value.request.get("MetricName") is not None
        and key_of(stored.value.request) == wanted
        and all(stored.value.request.get(member) == value for member, value in asked.items())
    ]
    return {"MetricAlarms": [_render(alarm) for alarm in found]}


# --- DescribeAlarmHistory ------------------------------------------------------------------------------


def describe_alarm_history(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List what happened to alarms in the last 30 days, deleted ones too, newest first unless told otherwise.

    Raises:
        ApiError: InvalidNextToken, 400.
    """
    name = request.get("AlarmName")
    subject = None if name is None else alarm_arn(services.place, name)
    wanted = request.get("HistoryItemType")
    kinds = [kind for kind, type_ in HISTORY_TYPES.items() if wanted in (None, type_)]
    if request.get("AlarmContributorId") is not None:
        kinds = []  # only alarms on Metrics Insights queries have contributors
    newest_first = request.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    limit = request.get("MaxRecords", DEFAULT_PAGE)
    at = _sequence(request.get("NextToken"))
    matches = _history_filter(request, services.clock.now_s())
    found: list[Event] = []
    while kinds and len(found) <= limit:
        chunk = services.records.events(subject, at, HISTORY_CHUNK, kinds=kinds, newest_first=newest_first)
        found += [event for event in chunk if matches(event)]
        if len(chunk) < HISTORY_CHUNK:
            break
        at = chunk[-1].sequence
    answer: dict[str, Any] = {"AlarmHistoryItems": [_render_item(event) for event in found[:limit]]}
    if len(found) > limit:
        answer["NextToken"] = page_token([found[limit - 1].sequence])
    return answer


def _sequence(token: str | None) -> int:
    if token is None:
        return 0
    try:
        (sequence,) = parse_page_token(token, int)
    except ValueError:
        raise _bad_token() from None
    if sequence is None or not 0 < sequence < 2**62:
        raise _bad_token()
    return int(sequence)


def _history_filter(request: Mapping[str, Any], now_s: float) -> Callable[[Event], bool]:
    start, end = request.get("StartDate"), request.get("EndDate")
    start_s = max(now_s - HISTORY_KEPT_S, seconds_of(start) if start is not None else 0.0)
    end_s = seconds_of(end) if end is not None else float("inf")
    types = request.get("AlarmTypes") or ["MetricAlarm"]

    def matches(event: Event) -> bool:
        kind = "CompositeAlarm" if event.detail["composite"] else "MetricAlarm"
        return start_s <= event.at_s <= end_s and kind in types

    return matches


def _render_item(event: Event) -> dict[str, Any]:
    return {
        "AlarmName": event.detail["alarm"],
        "AlarmType": "CompositeAlarm" if event.detail["composite"] else "MetricAlarm",
        "Timestamp": event.at_s,
        "HistoryItemType": HISTORY_TYPES[event.kind],
        "HistorySummary": event.detail["summary"][:LONGEST_SUMMARY],
        "HistoryData": _json(event.detail["data"], LONGEST_DATA),
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("cloudwatch", "DescribeAlarms"): describe_alarms,
    ("cloudwatch", "DescribeAlarmsForMetric"): describe_alarms_for_metric,
    ("cloudwatch", "DescribeAlarmHistory"): describe_alarm_history,
}

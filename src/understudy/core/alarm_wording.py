"""Why an alarm is in its state, in CloudWatch's words, and the items of its history.

Owns StateReason, StateReasonData and the texts of DescribeAlarmHistory.  Main functions:
:func:`metric_reason`, :func:`composite_reason`, :func:`state_update`.

Source: recorded StateReasons and history items of AWS ("Alarm events and EventBridge", User Guide).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from understudy.core.alarm_evaluation import COMPARISONS, AlarmRule, Datapoint, Judgement
from understudy.core.alarms import Alarm, AlarmState

LONGEST_REASON = 1023  # botocore: StateReason
SHOWN_DATAPOINTS = 5

# Kinds of events in the audit trail that are an alarm's history, and what CloudWatch calls them.
HISTORY_TYPES = {
    "AlarmConfigurationUpdate": "ConfigurationUpdate",
    "AlarmStateUpdate": "StateUpdate",
    "AlarmAction": "Action",
}

_TREATED = {"breaching": "Breaching", "notBreaching": "NonBreaching"}


def timestamp(at_s: float) -> str:
    """Render a time as StateReasonData has it.

    >>> timestamp(1_658_505_465.394)
    '2022-07-22T15:57:45.394+0000'
    """
    at_ms = round(at_s * 1000)
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}+0000"


def metric_reason(rule: AlarmRule, judgement: Judgement, state: AlarmState) -> str:
    """Say why a metric alarm goes into a state.

    >>> rule = AlarmRule("GreaterThanThreshold", 1.0, 60, 1, 1)
    >>> judged = Judgement(AlarmState.ALARM, (Datapoint(1_700_000_040, 5.0),))
    >>> metric_reason(rule, judged, AlarmState.ALARM)
    'Threshold Crossed: 1 datapoint [5.0 (14/11/23 22:14:00)] was greater than the threshold (1.0).'
    """
    if state is AlarmState.INSUFFICIENT_DATA:
        return f"Insufficient Data: {_counted(rule.evaluation_periods, 'datapoint')} unknown."
    received = len(judgement.evaluated)
    if judgement.filled and rule.treat_missing in _TREATED:
        got = f"{_counted(received, 'datapoint')} received" if received else "no datapoints were received"
        return (
            f"Threshold Crossed: {got} for {_plural(rule.evaluation_periods, 'period')} and "
            f"{_counted(judgement.filled, 'missing datapoint')} treated as [{_TREATED[rule.treat_missing]}]."
        )
    alarming = state is AlarmState.ALARM
    telling = [point for point in judgement.evaluated if rule.is_breaching(point.value) is alarming]
    shown = ", ".join(_shown(point) for point in reversed(telling[-SHOWN_DATAPOINTS:]))
    count = len(telling)
    verb = "was" if count == 1 else "were"
    if rule.m_was_given:
        subject = f"{count} out of the last {received} datapoints"
        needed = (
            rule.datapoints_to_alarm if alarming else rule.evaluation_periods - rule.datapoints_to_alarm + 1
        )
        before = "OK -> ALARM" if alarming else "ALARM -> OK"
        minimum = f" (minimum {_plural(needed, 'datapoint')} for {before} transition)"
    else:
        subject, minimum = _plural(count, "datapoint"), ""
    crossed = f"{'' if alarming else 'not '}{COMPARISONS[rule.comparison]} the threshold ({rule.threshold})"
    if count > SHOWN_DATAPOINTS:
        text = (
            f"Threshold Crossed: {subject} {verb} {crossed}{minimum}. The most recent datapoints: [{shown}]."
        )
    else:
        text = f"Threshold Crossed: {subject} [{shown}] {verb} {crossed}{minimum}."
    return text[:LONGEST_REASON]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _counted(count: int, noun: str) -> str:
    return f"{_plural(count, noun)} {'was' if count == 1 else 'were'}"


def _shown(point: Datapoint) -> str:
    return f"{point.value} ({datetime.fromtimestamp(point.start_s, UTC):%d/%m/%y %H:%M:%S})"


def metric_reason_data(
    rule: AlarmRule, judgement: Judgement, request: Mapping[str, Any], now_s: float
) -> dict[str, Any]:
    """Render the facts behind a metric alarm's state.

    Args:
        request: The alarm's; Unit and statistic are told where it names them.
    """
    data: dict[str, Any] = {"version": "1.0", "queryDate": timestamp(now_s)}
    if judgement.evaluated:
        data["startDate"] = timestamp(judgement.evaluated[0].start_s)
    if request.get("Unit") is not None:
        data["unit"] = request["Unit"]
    statistic = request.get("Statistic") or request.get("ExtendedStatistic")
    if statistic is not None:
        data["statistic"] = statistic
    shown = judgement.evaluated[-SHOWN_DATAPOINTS * 2 :]  # StateReasonData has 4,000 characters at most
    data["period"] = rule.period_s
    data["recentDatapoints"] = [point.value for point in shown]
    data["threshold"] = rule.threshold
    data["evaluatedDatapoints"] = [_evaluated(point) for point in reversed(shown)]
    return data


def _evaluated(point: Datapoint) -> dict[str, Any]:
    told: dict[str, Any] = {"timestamp": timestamp(point.start_s)}
    if point.sample_count is not None:
        told["sampleCount"] = point.sample_count
    return {**told, "value": point.value}


def composite_reason(alarm: Alarm, state: AlarmState, cause: Alarm | None) -> str:
    """Say why a composite alarm goes into a state.

    Args:
        cause: The child whose transition is the newest; None right after the alarm was put.
    """
    if cause is None:
        return f"{alarm.arn} was created and its alarm rule evaluates to {state}"
    at = datetime.fromtimestamp(int(cause.state_transitioned_at_s), UTC)
    return f"{cause.arn} transitioned to {cause.state} at {at:%A %d %B, %Y %H:%M:%S} UTC"[:LONGEST_REASON]


def composite_reason_data(triggering: Sequence[Alarm]) -> dict[str, Any]:
    """Render the children that a composite alarm's state rests on."""
    return {
        "triggeringAlarms": [
            {
                "arn": child.arn,
                "state": {
                    "value": child.state.value,
                    "timestamp": timestamp(child.state_transitioned_at_s),
                },
            }
            for child in triggering
        ]
    }


# --- history -------------------------------------------------------------------------------------------


def state_update(before: Alarm, after: Alarm) -> dict[str, Any]:
    """Make the detail of an ``AlarmStateUpdate`` event."""
    return _item(
        after,
        f"Alarm updated from {before.state} to {after.state}",
        {"version": "1.0", "oldState": _state(before), "newState": _state(after)},
    )


def _state(alarm: Alarm) -> dict[str, Any]:
    told: dict[str, Any] = {"stateValue": alarm.state.value, "stateReason": alarm.reason}
    return {**told, "stateReasonData": alarm.reason_data} if alarm.reason_data else told


def configuration_update(alarm: Alarm, what: str) -> dict[str, Any]:
    """Make the detail of an ``AlarmConfigurationUpdate`` event.

    Args:
        what: ``created``, ``updated`` or ``deleted``.
    """
    kind = {"created": "Create", "updated": "Update", "deleted": "Delete"}[what]
    told = {
        "stateValue": alarm.state.value,
        "alarmArn": alarm.arn,
        **{name[0].lower() + name[1:]: value for name, value in alarm.request.items()},
    }
    return _item(
        alarm, f'Alarm "{alarm.name}" {what}', {"version": "1.0", "type": kind, f"{what}Alarm": told}
    )


def action_result(alarm_name: str, composite: bool, summary: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Make the detail of an ``AlarmAction`` event."""
    return {"alarm": alarm_name, "composite": composite, "summary": summary, "data": dict(data)}


def _item(alarm: Alarm, summary: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"alarm": alarm.name, "composite": alarm.composite, "summary": summary, "data": dict(data)}

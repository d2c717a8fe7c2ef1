"""What a change of an alarm's state brings with it: the record, its history, the actions.

Owns the changes to commit together, so that no crash separates a state from its history or loses an
action.  Webhooks become :class:`AlarmAction` records, which somebody else delivers; what can't be
delivered here (SNS topics, scaling policies) is told in the history.
Main functions: :func:`transition`, :func:`actions_for`.

Source: the message that CloudWatch publishes to SNS; ``Severity``, ``Link`` and ``Look`` are additions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from understudy.core.alarm_data import metrics_of
from understudy.core.alarm_wording import action_result, state_update, timestamp
from understudy.core.alarms import ACTIONS_OF, Alarm, AlarmAction, AlarmState
from understudy.core.names import Place
from understudy.core.ports import Event, Put
from understudy.core.webhooks import WebhookPattern, is_allowed, is_webhook

SEVERITY_TAG = "severity"
_SEVERITIES = {
    AlarmState.ALARM: "critical",
    AlarmState.INSUFFICIENT_DATA: "warning",
    AlarmState.OK: "info",
}
_TRIGGER_MEMBERS = (
    "MetricName",
    "Namespace",
    "Unit",
    "Period",
    "EvaluationPeriods",
    "DatapointsToAlarm",
    "ComparisonOperator",
    "Threshold",
    "TreatMissingData",
    "EvaluateLowSampleCountPercentile",
    "Metrics",
    "AlarmRule",
)


@dataclass(frozen=True)
class ActionRules:
    """What actions need to know of the server.

    Attributes:
        endpoint_url: Its address, for links.
        webhooks: Where alarms may send to.
    """

    place: Place
    endpoint_url: str
    webhooks: Sequence[WebhookPattern] = ()


def transition(
    alarm: Alarm, state: AlarmState, reason: str, reason_data: Mapping[str, Any], now_s: float
) -> tuple[Alarm, list[Put | Event]]:
    """Move an alarm to another state.

    Returns:
        The alarm in its new state, and its history; the alarm itself is for the caller to put.
    """
    after = replace(
        alarm,
        state=state,
        reason=reason,
        reason_data=dict(reason_data),
        state_updated_at_s=now_s,
        state_transitioned_at_s=now_s if state is not alarm.state else alarm.state_transitioned_at_s,
    )
    if state is alarm.state:
        return after, []
    return after, [Event(alarm.arn, "AlarmStateUpdate", now_s, state_update(alarm, after))]


def actions_for(
    alarm: Alarm,
    old_state: AlarmState,
    version: int,
    rules: ActionRules,
    now_s: float,
    tags: Mapping[str, str] | None = None,
) -> list[Put | Event]:
    """Plan the actions of the state an alarm is in now.

    Args:
        version: Of the record that will be put; makes the names of actions unique.
        tags: The alarm's; ``severity`` among them is told in the message.
    Returns:
        Nothing when actions are disabled.
    """
    if not alarm.request.get("ActionsEnabled", True):
        return []
    changes: list[Put | Event] = []
    for number, action in enumerate(alarm.request.get(ACTIONS_OF[alarm.state], [])):
        name = f"{alarm.name}#{round(alarm.configured_at_s * 1000)}.{version}.{number}"
        if is_webhook(action) and is_allowed(action, rules.webhooks):
            told = {"MessageId": name, **message_of(alarm, old_state, rules, tags or {})}
            changes.append(
                Put(AlarmAction(name, alarm.name, alarm.arn, alarm.composite, action, told, now_s, now_s), 0)
            )
            continue
        if is_webhook(action):
            why = "the setting alarm_webhooks does not allow this address any more"
        else:
            why = "this server delivers to webhooks only (http or https addresses)"
        detail = action_result(
            alarm.name,
            alarm.composite,
            f"Failed to execute action {action}. Not delivered: {why}."[:255],
            {"actionState": "Failed", "notificationResource": action, "error": why},
        )
        changes.append(Event(alarm.arn, "AlarmAction", now_s, detail))
    return changes


def message_of(
    alarm: Alarm, old_state: AlarmState, rules: ActionRules, tags: Mapping[str, str]
) -> dict[str, Any]:
    """Render what a webhook is sent: CloudWatch's message to SNS, and where to look."""
    request, place = alarm.request, rules.place
    message: dict[str, Any] = {
        "AlarmName": alarm.name,
        "AlarmDescription": request.get("AlarmDescription"),
        "AWSAccountId": place.account_id,
        "AlarmConfigurationUpdatedTimestamp": timestamp(alarm.configured_at_s),
        "NewStateValue": alarm.state.value,
        "NewStateReason": alarm.reason,
        "StateChangeTime": timestamp(alarm.state_transitioned_at_s),
        "Region": place.region,
        "AlarmArn": alarm.arn,
        "OldStateValue": old_state.value,
        **{member: request.get(member, []) for member in ACTIONS_OF.values()},
        "Trigger": _trigger(request),
        "Severity": tags.get(SEVERITY_TAG, _SEVERITIES[alarm.state]),
    }
    return {**message, **_where_to_look(alarm, rules)}


def _trigger(request: Mapping[str, Any]) -> dict[str, Any]:
    trigger = {member: request[member] for member in _TRIGGER_MEMBERS if member in request}
    if request.get("Statistic") is not None:
        trigger["StatisticType"] = "Statistic"
        trigger["Statistic"] = request["Statistic"].upper()
    elif request.get("ExtendedStatistic") is not None:
        trigger["StatisticType"] = "ExtendedStatistic"
        trigger["ExtendedStatistic"] = request["ExtendedStatistic"]
    if "MetricName" in request:
        trigger["Dimensions"] = [
            {"name": each["Name"], "value": each["Value"]} for each in request.get("Dimensions", [])
        ]
    return trigger


def _where_to_look(alarm: Alarm, rules: ActionRules) -> dict[str, Any]:
    """Link the alarm's page of the console; name its endpoint, if any, and the commands that show more."""
    commands = [f"aws cloudwatch describe-alarm-history --alarm-name '{alarm.name}'"]
    endpoint = endpoint_of(alarm.request)
    link = f"{rules.endpoint_url}/console/alarms/{quote(alarm.name, safe='')}"
    if endpoint is None:
        return {"Link": link, "Look": commands}
    commands += [f"understudy status # {endpoint}", f"understudy logs {endpoint}"]
    return {"EndpointName": endpoint, "Link": link, "Look": commands}


def endpoint_of(request: Mapping[str, Any]) -> str | None:
    """Name the endpoint whose metrics an alarm reads, the first of several."""
    for metric in metrics_of(request):
        for dimension in metric["Dimensions"]:
            if dimension["Name"] == "EndpointName":
                return str(dimension["Value"])
    return None

"""PutMetricAlarm and PutCompositeAlarm.

Owns the rules between the members of an alarm.  Refuses what this version does not evaluate (anomaly
detection, PromQL, wall clock windows, warm-up), actions that lead nowhere, and circles of composite alarms.
Evaluation is control's; a put alarm is INSUFFICIENT_DATA until then, or keeps the state it had.

Source: CloudWatch API Reference, PutMetricAlarm, PutCompositeAlarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from understudy.core.alarm_data import in_order, metrics_of, period_s_of, read_datapoints, rule_of
from understudy.core.alarm_evaluation import COMPARISONS
from understudy.core.alarm_expressions import RuleError, children_of, leads_back, parse_rule, read_by
from understudy.core.alarm_wording import configuration_update
from understudy.core.alarms import ACTIONS_OF, Alarm, alarm_arn, alarm_name_of
from understudy.core.errors import ApiError
from understudy.core.metric_math import parse_expression, references
from understudy.core.metric_values import MathError
from understudy.core.metrics import Bucket, SeriesKey, Summary
from understudy.core.models import Tags
from understudy.core.ports import Delete, Event, Put, Query, Records
from understudy.core.statistics import parse_statistic
from understudy.core.webhooks import is_allowed, is_webhook
from understudy.operations.cloudwatch_tags import parse_alarm_tags
from understudy.operations.metric_data import check_queries
from understudy.operations.metric_requests import validation_error
from understudy.operations.sagemaker.wording import until_agreed
from understudy.operations.services import Operation, Services

MAX_ALARMS = 5000  # CloudWatch's default quota
MAX_METRICS = 10
DAY_S, WEEK_S, HOUR_S = 86_400, 604_800, 3600

_METRIC_MEMBERS = (
    "MetricName",
    "Namespace",
    "Dimensions",
    "Period",
    "Unit",
    "Statistic",
    "ExtendedStatistic",
)
# Members that AWS has and this version does not carry out: refused, never ignored.
_UNSUPPORTED = {
    "ThresholdMetricId": "Alarms on anomaly detection bands",
    "EvaluationCriteria": "Alarms on PromQL queries",
    "EvaluationInterval": "Alarms on PromQL queries",
    "WarmUpConfiguration": "WarmUpConfiguration",
}


# --- PutMetricAlarm ------------------------------------------------------------------------------------


def put_metric_alarm(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Keep a metric alarm; one that exists keeps its state and its tags.

    Differs from AWS: AlarmActions may hold http(s) addresses that the setting ``alarm_webhooks`` allows;
    actions with an ARN are kept and shown, their failure is told in the alarm's history.

    Raises:
        ApiError: ValidationError, 400; LimitExceeded, 400.
    """
    _check_name(request["AlarmName"])
    _refuse_unsupported(request)
    if request.get("MetricName") is not None:
        _check_metric(request)
    else:
        _check_math(services, request)
    _check_rule(request)
    _check_actions(services, request)
    _put(services, request, composite=False)
    return {}


def _check_name(name: str) -> None:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name) or not name.strip():
        raise validation_error("The parameter AlarmName must not be blank or contain control characters.")


def _refuse_unsupported(request: Mapping[str, Any]) -> None:
    for member, what in _UNSUPPORTED.items():
        if request.get(member) is not None:
            raise validation_error(f"{what} are not supported by Understudy ({member}).")
    comparison = request.get("ComparisonOperator")
    if comparison is not None and comparison not in COMPARISONS:
        raise validation_error(
            f"The comparison operator {comparison} is for anomaly detection bands, which "
            "Understudy does not support."
        )
    if "WallClockWindow" in (request.get("EvaluationWindow") or {}):
        raise validation_error("Understudy evaluates sliding windows only; WallClockWindow is not supported.")
    propagation = (request.get("ActionConfiguration") or {}).get("AlarmTagsPropagation") or {}
    if propagation.get("Enabled"):
        raise validation_error("AlarmTagsPropagation is not supported by Understudy.")


def _check_metric(request: Mapping[str, Any]) -> None:
    if request.get("Metrics"):
        raise validation_error("The parameters MetricName and Metrics are mutually exclusive.")
    for member in ("Namespace", "Period"):
        if request.get(member) is None:
            raise validation_error(f"The parameter {member} is required with the parameter MetricName.")
    statistics = [request.get("Statistic"), request.get("ExtendedStatistic")]
    if sum(name is not None for name in statistics) != 1:
        raise validation_error(
            "Exactly one of the parameters Statistic and ExtendedStatistic must be specified."
        )
    if request.get("ExtendedStatistic") is not None:
        try:
            plain = parse_statistic(request["ExtendedStatistic"]).kind == request["ExtendedStatistic"]
        except ValueError:
            plain = True
        if plain:
            raise validation_error(
                f"The value {request['ExtendedStatistic']} for parameter ExtendedStatistic is not supported."
            )
    names = [each["Name"] for each in request.get("Dimensions") or []]
    if len(set(names)) < len(names):
        raise validation_error("The parameter Dimensions contains a duplicate dimension name.")


def _check_math(services: Services, request: Mapping[str, Any]) -> None:
    """Check the Metrics of an alarm on metric math; one try on made-up data finds what can't be computed."""
    queries = request.get("Metrics") or []
    if not queries:
        raise validation_error("Exactly one of the parameters MetricName and Metrics must be specified.")
    given = [member for member in _METRIC_MEMBERS if request.get(member) is not None]
    if given:
        raise validation_error(f"The parameter {given[0]} must not be specified with the parameter Metrics.")
    check_queries(queries, "Metrics")
    if sum(query.get("ReturnData", True) for query in queries) != 1:
        raise validation_error("Exactly one element of the Metrics list should return data.")
    if len(metrics_of(request)) > MAX_METRICS:
        raise validation_error(f"The parameter Metrics must not contain more than {MAX_METRICS} metrics.")
    account = services.place.account_id
    if any(query.get("AccountId", account) != account for query in queries):
        raise validation_error("Metrics of other accounts are not supported by Understudy (AccountId).")
    periods = {
        query["MetricStat"]["Period"] if query.get("MetricStat") else query.get("Period") for query in queries
    } - {None}
    if not periods:
        raise validation_error("The parameter Period is required where no metric has one.")
    if len(periods) > 1:
        raise validation_error("All metrics of an alarm must have the same Period.")
    ids = {query["Id"] for query in queries}
    try:
        for query_id, text in in_order(queries):
            unknown = references(parse_expression(text)) - ids
            if unknown:
                raise validation_error(
                    f"Error in expression '{query_id}': no query has the Id {min(unknown)!r}."
                )
    except MathError as error:
        raise validation_error(f"Error in the expressions of Metrics: {error}.") from None


def _check_rule(request: Mapping[str, Any]) -> None:
    for member in ("EvaluationPeriods", "Threshold", "ComparisonOperator"):
        if request.get(member) is None:
            raise validation_error(f"The parameter {member} is required.")
    if not math.isfinite(request["Threshold"]):
        raise validation_error("The parameter Threshold must be a finite number.")
    period_s = period_s_of(request)
    if period_s not in (10, 20, 30) and period_s % 60 != 0:
        raise validation_error("Period must be 10, 20, 30 or a multiple of 60.")
    periods = request["EvaluationPeriods"]
    longest_s = DAY_S if period_s < HOUR_S else WEEK_S
    if periods * period_s > longest_s:
        span = "a day" if longest_s == DAY_S else "seven days"
        raise validation_error(
            f"Metrics cannot be checked across more than {span} "
            f"(EvaluationPeriods * Period must be <= {longest_s})."
        )
    if request.get("DatapointsToAlarm") is not None and request["DatapointsToAlarm"] > periods:
        raise validation_error(
            "The parameter DatapointsToAlarm must be less than or equal to the parameter EvaluationPeriods."
        )
    for member, known in (
        ("TreatMissingData", ("breaching", "notBreaching", "ignore", "missing")),
        ("EvaluateLowSampleCountPercentile", ("evaluate", "ignore")),
    ):
        if request.get(member) is not None and request[member] not in known:
            raise validation_error(
                f"The value {request[member]} for parameter {member} is not valid. "
                f"Valid values: {' | '.join(known)}."
            )
    if request.get("EvaluateLowSampleCountPercentile") is not None and not request.get("ExtendedStatistic"):
        raise validation_error(
            "The parameter EvaluateLowSampleCountPercentile needs a percentile in ExtendedStatistic."
        )
    _try(request)


def _try(request: Mapping[str, Any]) -> None:
    """Compute an alarm once without data and once with made-up data."""
    period_s = period_s_of(request)
    end_s = period_s * (rule_of(request).range_periods + 1)

    def nothing(_: SeriesKey, start_s: int, until_s: int, every_s: int) -> list[Bucket]:
        return []

    def made_up(_: SeriesKey, start_s: int, until_s: int, every_s: int) -> list[Bucket]:
        return [Bucket(at_s, "None", Summary.of([1.0])) for at_s in range(start_s, until_s, every_s)]

    try:
        for read in (nothing, made_up):
            read_datapoints(_without_units(request), read, end_s)
    except MathError as error:
        raise validation_error(f"Error in the expressions of Metrics: {error}.") from None


def _without_units(request: Mapping[str, Any]) -> dict[str, Any]:
    queries = [
        {**query, "MetricStat": {**query["MetricStat"], "Unit": None}} if query.get("MetricStat") else query
        for query in request.get("Metrics") or []
    ]
    # One period tells as much as many.
    return {**request, "Unit": None, "Metrics": queries, "EvaluationPeriods": 1}


# --- PutCompositeAlarm ---------------------------------------------------------------------------------


def put_composite_alarm(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Keep an alarm on the states of other alarms; one that exists keeps its state and its tags.

    Differs from AWS: rules that go round in a circle are refused.

    Raises:
        ApiError: ValidationError, 400; LimitExceeded, 400.
    """
    _check_name(request["AlarmName"])
    _refuse_unsupported(request)
    _check_suppressor(request)
    _check_actions(services, request)
    try:
        children = children_of(parse_rule(request["AlarmRule"]))
    except RuleError as error:
        raise validation_error(f"Invalid AlarmRule: {error}.") from None
    name, records = request["AlarmName"], services.records
    if request.get("ActionsSuppressor") is not None:
        children.append(alarm_name_of(request["ActionsSuppressor"]))
    absent = [child for child in children if child != name and records.get(Alarm, child) is None]
    if absent:
        raise validation_error(
            f"Could not save the composite alarm as alarms [{', '.join(absent)}] in the alarm rule "
            "do not exist."
        )
    # The suppressor counts too: an alarm that waits for itself would wait for ever.
    reads = {**children_by_composite(records), name: children}
    if leads_back(name, reads):
        raise validation_error(f"The AlarmRule of {name} leads back to {name} itself.")
    _put(services, request, composite=True)
    return {}


def _check_suppressor(request: Mapping[str, Any]) -> None:
    periods = ("ActionsSuppressorWaitPeriod", "ActionsSuppressorExtensionPeriod")
    given = [member for member in periods if request.get(member) is not None]
    if request.get("ActionsSuppressor") is None and given:
        raise validation_error(f"The parameter {given[0]} needs the parameter ActionsSuppressor.")
    if request.get("ActionsSuppressor") is not None:
        for member in periods:
            if request.get(member) is None:
                raise validation_error(f"The parameter {member} is required with ActionsSuppressor.")
            if request[member] < 0:
                raise validation_error(f"The parameter {member} must not be negative.")


def children_by_composite(records: Records) -> dict[str, list[str]]:
    """Name what every composite alarm reads: the alarms of its rule and its suppressor."""
    found = {}
    for stored in records.find(Alarm, Query()):
        if stored.value.composite:
            found[stored.value.name] = read_by(stored.value)
    return found


# --- both ----------------------------------------------------------------------------------------------


def _check_actions(services: Services, request: Mapping[str, Any]) -> None:
    for member in ACTIONS_OF.values():
        for action in request.get(member) or []:
            if is_webhook(action):
                if not is_allowed(action, services.webhooks):
                    raise validation_error(
                        f"{member}: the address {action} is not allowed. Allow it with the server's setting "
                        "alarm_webhooks (understudy serve --alarm-webhooks 'https://hooks.example/*')."
                    )
            elif not action.startswith("arn:") or action.count(":") < 5:
                raise validation_error(f"Invalid arn syntax: {action}")


def _put(services: Services, request: Mapping[str, Any], *, composite: bool) -> None:
    records, name = services.records, request["AlarmName"]
    arn = alarm_arn(services.place, name)
    tags = parse_alarm_tags(request.get("Tags") or [])
    kept = {member: value for member, value in request.items() if member != "Tags" and value is not None}
    kept.setdefault("ActionsEnabled", True)

    def attempt() -> None:
        now_s = services.clock.now_s()
        stored = records.get(Alarm, name)
        changes: list[Put | Delete | Event] = []
        if stored is None:
            if len(records.find(Alarm, Query(limit=MAX_ALARMS))) >= MAX_ALARMS:
                raise ApiError(
                    f"The maximum number of {MAX_ALARMS} alarms has been reached.",
                    code="LimitExceeded",
                    status=400,
                )
            alarm = Alarm(
                name, arn, kept, composite, now_s, state_updated_at_s=now_s, state_transitioned_at_s=now_s
            )
            left = records.get(Tags, arn)
            if tags:
                changes.append(Put(Tags(arn, tags, now_s, now_s), 0 if left is None else left.version))
            elif left is not None:
                changes.append(Delete(Tags, arn, left.version))
        else:
            before = stored.value
            if before.composite is not composite:
                other = "composite" if before.composite else "metric"
                raise validation_error(f"The name {name} is that of a {other} alarm.")
            alarm = Alarm(
                name,
                arn,
                kept,
                composite,
                now_s,
                before.state,
                before.reason,
                before.reason_data,
                before.state_updated_at_s,
                before.state_transitioned_at_s,
            )
        detail = configuration_update(alarm, "created" if stored is None else "updated")
        changes += [
            Put(alarm, 0 if stored is None else stored.version),
            Event(arn, "AlarmConfigurationUpdate", now_s, detail),
        ]
        records.commit(changes)

    until_agreed(attempt)
    services.nudge_alarms()


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("cloudwatch", "PutMetricAlarm"): put_metric_alarm,
    ("cloudwatch", "PutCompositeAlarm"): put_composite_alarm,
}

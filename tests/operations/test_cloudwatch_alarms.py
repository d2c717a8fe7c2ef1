"""Alarm operations over both record stores, judged by botocore's own model of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.model import Shape

from understudy.aws.validation import validate
from understudy.core.alarms import Alarm, AlarmAction, alarm_arn
from understudy.core.errors import ApiError
from understudy.core.names import Place
from understudy.core.ports import Query, Records
from understudy.core.webhooks import parse_webhooks
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.memory import MemoryRecords
from understudy.stores.records import open_records

MODEL = botocore.session.get_session().get_service_model("cloudwatch")
TOPIC = "arn:aws:sns:us-east-1:123456789012:on-call"


class TickingClock:
    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def now_s(self) -> float:
        self.at_s += 1.0
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class Cloud:
    """Calls operations as the AWS face does: request and answer are held to botocore's shapes."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def __call__(self, operation: str, **request: Any) -> dict[str, Any]:
        model = MODEL.operation_model(operation)
        validate("cloudwatch", model.input_shape, request)
        answer = OPERATIONS["cloudwatch", operation](self.services, request)
        check_shape(model.output_shape, answer)
        return answer

    def put(self, name: str, **members: Any) -> dict[str, Any]:
        given = {
            "Namespace": "Mine",
            "MetricName": "Errors",
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanThreshold",
            **members,
        }
        given = {member: value for member, value in given.items() if value is not None}
        return self("PutMetricAlarm", AlarmName=name, **given)

    def names(self, **request: Any) -> list[str]:
        answer = self("DescribeAlarms", **request)
        return [one["AlarmName"] for one in (*answer["MetricAlarms"], *answer["CompositeAlarms"])]


def check_shape(shape: Shape | None, value: Any) -> None:
    if shape is None:
        assert value == {}
    elif shape.type_name == "structure":
        assert set(value) <= set(shape.members), set(value) - set(shape.members)
        for name, member in value.items():
            check_shape(shape.members[name], member)
    elif shape.type_name == "list":
        for member in value:
            check_shape(shape.member, member)
    elif shape.type_name == "string":
        assert isinstance(value, str)
        assert shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", 10**9)


@pytest.fixture(params=["memory", "sqlite"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    store: Records = (
        MemoryRecords() if request.param == "memory" else open_records(f"sqlite:///{tmp_path / 'r.db'}")
    )
    yield store
    store.close()


@pytest.fixture
def cloud(records: Records) -> Cloud:
    unused = cast(Any, None)
    return Cloud(
        Services(
            records=records,
            buckets=unused,
            objects=unused,
            series=unused,
            logs=unused,
            clock=TickingClock(),
            entropy=unused,
            place=Place(),
            endpoint_url="http://127.0.0.1:8080",
            nudge=lambda: None,
            webhooks=parse_webhooks("https://hooks.example/*"),
            stages=unused,
            evidence=unused,
            assignments=unused,
            outcomes=unused,
        )
    )


def refused(cloud: Cloud, operation: str, **request: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        cloud(operation, **request)
    return caught.value


# --- PutMetricAlarm ------------------------------------------------------------------------------------


def test_a_new_alarm_has_no_data_yet(cloud: Cloud) -> None:
    cloud.put(
        "errors", AlarmDescription="d", Dimensions=[{"Name": "Place", "Value": "a"}], AlarmActions=[TOPIC]
    )
    (alarm,) = cloud("DescribeAlarms")["MetricAlarms"]
    assert alarm["StateValue"] == "INSUFFICIENT_DATA"
    assert alarm["StateReason"] == "Unchecked: Initial alarm creation"
    assert alarm["AlarmArn"] == "arn:aws:cloudwatch:us-east-1:123456789012:alarm:errors"
    assert alarm["ActionsEnabled"] is True and alarm["OKActions"] == []
    assert alarm["Dimensions"] == [{"Name": "Place", "Value": "a"}]
    assert alarm["StateUpdatedTimestamp"] == alarm["AlarmConfigurationUpdatedTimestamp"]


def test_putting_again_keeps_state_and_tags(cloud: Cloud) -> None:
    cloud.put("errors", Tags=[{"Key": "team", "Value": "a"}])
    cloud("SetAlarmState", AlarmName="errors", StateValue="ALARM", StateReason="drill")
    cloud.put("errors", Threshold=9.0, Tags=[{"Key": "team", "Value": "b"}])
    (alarm,) = cloud("DescribeAlarms")["MetricAlarms"]
    assert (alarm["StateValue"], alarm["StateReason"], alarm["Threshold"]) == ("ALARM", "drill", 9.0)
    tags = cloud("ListTagsForResource", ResourceARN=alarm["AlarmArn"])["Tags"]
    assert tags == [{"Key": "team", "Value": "a"}]


@pytest.mark.parametrize(
    ("members", "needle"),
    [
        ({"Statistic": None}, "Exactly one of the parameters Statistic and ExtendedStatistic"),
        ({"ExtendedStatistic": "p99"}, "Exactly one of the parameters Statistic and ExtendedStatistic"),
        ({"Statistic": None, "ExtendedStatistic": "p101"}, "p101"),
        ({"Statistic": None, "ExtendedStatistic": "Sum"}, "Sum"),
        ({"Namespace": None}, "Namespace"),
        ({"Period": None}, "Period"),
        ({"Period": 1}, "10, 20, 30 or a multiple of 60"),
        ({"Period": 90}, "10, 20, 30 or a multiple of 60"),
        ({"Period": 60, "EvaluationPeriods": 1441}, "86400"),
        ({"Period": 3600, "EvaluationPeriods": 169}, "604800"),
        ({"Threshold": None}, "Threshold"),
        ({"Threshold": float("nan")}, "finite"),
        ({"EvaluationPeriods": 2, "DatapointsToAlarm": 3}, "less than or equal"),
        ({"TreatMissingData": "perhaps"}, "breaching | notBreaching | ignore | missing"),
        ({"EvaluateLowSampleCountPercentile": "ignore"}, "percentile"),
        ({"Dimensions": [{"Name": "a", "Value": "1"}, {"Name": "a", "Value": "2"}]}, "duplicate"),
        ({"ComparisonOperator": "GreaterThanUpperThreshold"}, "anomaly"),
        ({"ThresholdMetricId": "ad1"}, "anomaly"),
        ({"EvaluationWindow": {"WallClockWindow": {"Timezone": "UTC"}}}, "WallClockWindow"),
        ({"AlarmActions": ["on-call"]}, "Invalid arn syntax"),
        ({"AlarmActions": ["https://evil.example/"]}, "alarm_webhooks"),
        ({"MetricName": None}, "MetricName and Metrics"),
        ({"Metrics": [{"Id": "m"}]}, "mutually exclusive"),
        ({"Tags": [{"Key": "aws:x", "Value": ""}]}, "reserved"),
        ({"AlarmActions": [TOPIC] * 6}, "less than or equal to 5"),
    ],
)
def test_what_is_no_metric_alarm(cloud: Cloud, members: dict[str, Any], needle: str) -> None:
    with pytest.raises(ApiError) as caught:
        cloud.put("errors", **members)
    assert needle in caught.value.message and caught.value.status == 400
    assert cloud.names() == []


def test_names_without_control_characters(cloud: Cloud) -> None:
    with pytest.raises(ApiError, match="AlarmName"):
        cloud.put("a\nb")
    cloud.put("größer als 1 %: ja/nein")
    assert cloud.names() == ["größer als 1 %: ja/nein"]


def stat(name: str, period_s: int = 60, **more: Any) -> dict[str, Any]:
    metric = {"Metric": {"Namespace": "Mine", "MetricName": name}, "Period": period_s, "Stat": "Sum"}
    return {"Id": name, "MetricStat": metric, "ReturnData": False, **more}


def put_math(cloud: Cloud, *queries: dict[str, Any]) -> dict[str, Any]:
    single = dict.fromkeys(("Namespace", "MetricName", "Statistic", "Period"))
    return cloud.put("rate", Metrics=list(queries), **single)


def test_metric_math(cloud: Cloud) -> None:
    put_math(cloud, {"Id": "e", "Expression": "100 * a / b"}, stat("a"), stat("b"))
    (alarm,) = cloud("DescribeAlarms")["MetricAlarms"]
    assert [query["Id"] for query in alarm["Metrics"]] == ["e", "a", "b"] and "Period" not in alarm


@pytest.mark.parametrize(
    ("queries", "needle"),
    [
        ([stat("a")], "ReturnData"),
        ([{"Id": "e", "Expression": "a"}, stat("a", ReturnData=True)], "Exactly one element"),
        ([{"Id": "e", "Expression": "a + nothing"}, stat("a")], "nothing"),
        ([{"Id": "e", "Expression": "a +"}, stat("a")], "Error in"),
        (
            [{"Id": "e", "Expression": "f", "Period": 60}, {"Id": "f", "Expression": "e"}],
            "ReturnData|Exactly",
        ),
        ([{"Id": "e", "Expression": "SUM(a)"}, stat("a")], "time series"),
        ([{"Id": "e", "Expression": "[a, b]"}, stat("a"), stat("b")], "time series"),
        ([{"Id": "e", "Expression": "a / b"}, stat("a"), stat("b", 300)], "same Period"),
        ([{"Id": "e", "Expression": "ANOMALY_DETECTION_BAND(a)"}, stat("a")], "not supported"),
        ([{"Id": "e", "Expression": "TIME_SERIES(1)"}], "Period"),
        ([{"Id": "A", "Expression": "a"}, stat("a")], "pattern"),
        ([{"Id": "e", "Expression": "m0"}, *(stat(f"m{n}") for n in range(11))], "more than 10"),
        ([stat("a", ReturnData=True, AccountId="999999999999")], "AccountId"),
    ],
)
def test_what_is_no_metric_math(cloud: Cloud, queries: list[dict[str, Any]], needle: str) -> None:
    with pytest.raises(ApiError, match=needle):
        put_math(cloud, *queries)


# --- composite alarms ----------------------------------------------------------------------------------


def composite(cloud: Cloud, name: str, rule: str, **members: Any) -> dict[str, Any]:
    return cloud("PutCompositeAlarm", AlarmName=name, AlarmRule=rule, **members)


def test_composites_and_their_relatives(cloud: Cloud) -> None:
    cloud.put("a")
    cloud.put("b c")
    composite(cloud, "inner", f'ALARM(a) OR OK("{alarm_arn(Place(), "b c")}")')
    composite(cloud, "outer", "NOT ALARM(inner) AND ALARM(a)")
    assert cloud.names() == ["a", "b c"]  # metric alarms only, unless asked for
    assert cloud.names(AlarmTypes=["CompositeAlarm"]) == ["inner", "outer"]
    assert cloud.names(AlarmTypes=["CompositeAlarm", "MetricAlarm"], AlarmNamePrefix="o") == ["outer"]
    children = cloud("DescribeAlarms", ChildrenOfAlarmName="outer")
    assert set(children["MetricAlarms"][0]) == {
        "AlarmName",
        "AlarmArn",
        "StateValue",
        "StateUpdatedTimestamp",
    }
    assert [one["AlarmName"] for one in children["CompositeAlarms"]] == ["inner"]
    parents = cloud("DescribeAlarms", ParentsOfAlarmName="a")["CompositeAlarms"]
    assert [set(parent) for parent in parents] == [{"AlarmName", "AlarmArn"}] * 2
    assert (
        "must not be specified"
        in refused(cloud, "DescribeAlarms", ParentsOfAlarmName="a", StateValue="OK").message
    )


@pytest.mark.parametrize(
    ("rule", "needle"),
    [
        ("ALARM(gone)", r"alarms \[gone\]"),
        ("ALARM(self)", "leads back"),
        ("ALARM(outer)", "leads back"),
        ("ALARM(", "Invalid AlarmRule"),
    ],
)
def test_what_is_no_composite(cloud: Cloud, rule: str, needle: str) -> None:
    composite(cloud, "self", "TRUE")
    composite(cloud, "outer", "ALARM(self)")
    with pytest.raises(ApiError, match=needle):
        composite(cloud, "self", rule)


def test_suppressors_are_checked(cloud: Cloud) -> None:
    cloud.put("quiet")
    periods = {"ActionsSuppressorWaitPeriod": 5, "ActionsSuppressorExtensionPeriod": 0}
    with pytest.raises(ApiError, match="required with ActionsSuppressor"):
        composite(cloud, "c", "TRUE", ActionsSuppressor="quiet")
    with pytest.raises(ApiError, match="do not exist"):
        composite(cloud, "c", "TRUE", ActionsSuppressor="gone", **periods)
    with pytest.raises(ApiError, match="leads back"):
        composite(cloud, "c", "TRUE", ActionsSuppressor="c", **periods)
    composite(cloud, "c", "TRUE", ActionsSuppressor="quiet", **periods)
    assert "depending" in refused(cloud, "DeleteAlarms", AlarmNames=["quiet"]).message


def test_a_name_is_of_one_kind(cloud: Cloud) -> None:
    cloud.put("a")
    with pytest.raises(ApiError, match="metric alarm"):
        composite(cloud, "a", "TRUE")


# --- the rest ------------------------------------------------------------------------------------------


def test_filters_and_pages(cloud: Cloud) -> None:
    for number in range(7):
        cloud.put(f"a{number}", AlarmActions=[TOPIC] if number % 2 else [])
    cloud.put("b")
    cloud("SetAlarmState", AlarmName="a3", StateValue="OK", StateReason="")
    assert cloud.names(AlarmNamePrefix="a", StateValue="OK") == ["a3"]
    assert cloud.names(ActionPrefix="arn:aws:sns:") == ["a1", "a3", "a5"]
    assert cloud.names(AlarmNames=["b", "gone", "a0"]) == ["a0", "b"]
    seen: list[str] = []
    token: dict[str, Any] = {}
    while True:
        answer = cloud("DescribeAlarms", MaxRecords=3, **token)
        seen += [alarm["AlarmName"] for alarm in answer["MetricAlarms"]]
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
    assert seen == [*(f"a{number}" for number in range(7)), "b"]
    assert refused(cloud, "DescribeAlarms", NextToken="nonsense").code == "InvalidNextToken"
    both = refused(cloud, "DescribeAlarms", AlarmNames=["b"], AlarmNamePrefix="a")
    assert "mutually exclusive" in both.message


def test_alarms_of_a_metric(cloud: Cloud) -> None:
    place = [{"Name": "Place", "Value": "a"}]
    cloud.put("plain")
    cloud.put("there", Dimensions=place, Period=300)
    found = cloud("DescribeAlarmsForMetric", MetricName="Errors", Namespace="Mine", Dimensions=place)
    assert [one["AlarmName"] for one in found["MetricAlarms"]] == ["there"]
    none = cloud(
        "DescribeAlarmsForMetric", MetricName="Errors", Namespace="Mine", Dimensions=place, Period=60
    )
    assert none["MetricAlarms"] == []


def test_history_tells_everything_in_order(cloud: Cloud) -> None:
    cloud.put("a", AlarmActions=[TOPIC])
    cloud("SetAlarmState", AlarmName="a", StateValue="ALARM", StateReason="r", StateReasonData='{"x": 1}')
    composite(cloud, "c", "ALARM(a)")
    cloud("DisableAlarmActions", AlarmNames=["a", "gone"])
    cloud("SetAlarmState", AlarmName="a", StateValue="OK", StateReason="r2")
    cloud("DeleteAlarms", AlarmNames=["a", "c"])
    items = cloud("DescribeAlarmHistory", AlarmName="a", ScanBy="TimestampAscending")["AlarmHistoryItems"]
    assert [item["HistoryItemType"] for item in items] == [
        "ConfigurationUpdate",
        "StateUpdate",
        "Action",
        "ConfigurationUpdate",
        "StateUpdate",
        "ConfigurationUpdate",
    ]
    told = json.loads(items[1]["HistoryData"])
    assert told["newState"] == {"stateValue": "ALARM", "stateReason": "r", "stateReasonData": {"x": 1}}
    assert "Not delivered" in items[2]["HistorySummary"] and TOPIC in items[2]["HistorySummary"]
    times = [item["Timestamp"] for item in items]
    assert times == sorted(times)
    everything = cloud("DescribeAlarmHistory", AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    assert [item["AlarmName"] for item in everything["AlarmHistoryItems"]].count("c") == 2
    assert {item["AlarmName"] for item in cloud("DescribeAlarmHistory")["AlarmHistoryItems"]} == {"a"}
    assert cloud("DescribeAlarmHistory", AlarmContributorId="one")["AlarmHistoryItems"] == []
    at = datetime.fromtimestamp(times[1], UTC)
    window = cloud("DescribeAlarmHistory", AlarmName="a", StartDate=at, EndDate=at)["AlarmHistoryItems"]
    assert {item["Timestamp"] for item in window} == {times[1]}
    paged: list[str] = []
    token: dict[str, Any] = {}
    while True:
        answer = cloud("DescribeAlarmHistory", AlarmName="a", MaxRecords=2, **token)
        paged += [item["HistorySummary"] for item in answer["AlarmHistoryItems"]]
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
    assert paged == [item["HistorySummary"] for item in reversed(items)]


def test_long_histories_stay_json(cloud: Cloud) -> None:
    cloud.put("a", AlarmDescription="d" * 1024)
    for state in ("ALARM", "OK"):
        data = json.dumps({f"k{n}": "v" * 60 for n in range(50)})
        cloud(
            "SetAlarmState",
            AlarmName="a",
            StateValue=state,
            StateReason="r" * 1023,
            StateReasonData=data,
        )
    for item in cloud("DescribeAlarmHistory", AlarmName="a")["AlarmHistoryItems"]:
        assert json.loads(item["HistoryData"])["version"] == "1.0"


def test_setting_a_state_plans_webhooks_and_wakes_others(cloud: Cloud, records: Records) -> None:
    cloud.put("a", AlarmActions=["https://hooks.example/x"], Tags=[{"Key": "severity", "Value": "low"}])
    cloud("SetAlarmState", AlarmName="a", StateValue="ALARM", StateReason="drill")
    cloud("SetAlarmState", AlarmName="a", StateValue="ALARM", StateReason="again")
    (planned,) = records.find(AlarmAction, Query())
    assert planned.value.url == "https://hooks.example/x"
    assert planned.value.message["Severity"] == "low"
    assert planned.value.message["NewStateReason"] == "drill"
    assert planned.value.message["OldStateValue"] == "INSUFFICIENT_DATA"
    assert refused(cloud, "SetAlarmState", AlarmName="x", StateValue="OK", StateReason="").status == 404
    bad = refused(cloud, "SetAlarmState", AlarmName="a", StateValue="OK", StateReason="", StateReasonData="{")
    assert bad.code == "InvalidFormat"


def test_disabled_actions_are_not_planned(cloud: Cloud, records: Records) -> None:
    cloud.put("a", AlarmActions=["https://hooks.example/x"])
    cloud("DisableAlarmActions", AlarmNames=["a"])
    cloud("SetAlarmState", AlarmName="a", StateValue="ALARM", StateReason="")
    assert records.find(AlarmAction, Query()) == []
    cloud("EnableAlarmActions", AlarmNames=["a"])
    assert cloud("DescribeAlarms")["MetricAlarms"][0]["ActionsEnabled"] is True


def test_deletion_keeps_what_others_need(cloud: Cloud, records: Records) -> None:
    for name in ("a", "b"):
        cloud.put(name, Tags=[{"Key": "k", "Value": name}])
    composite(cloud, "c", "ALARM(a)")
    composite(cloud, "d", "ALARM(b)")
    missing = refused(cloud, "DeleteAlarms", AlarmNames=["gone"])
    assert (missing.code, missing.status) == ("ResourceNotFound", 404) and "gone" in missing.message
    assert "depending" in refused(cloud, "DeleteAlarms", AlarmNames=["a"]).message
    assert "one composite" in refused(cloud, "DeleteAlarms", AlarmNames=["c", "d"]).message
    assert len(records.find(Alarm, Query())) == 4
    cloud("DeleteAlarms", AlarmNames=["a", "c", "gone", "a"])
    assert cloud.names(AlarmTypes=["MetricAlarm", "CompositeAlarm"]) == ["b", "d"]
    cloud.put("a")
    assert cloud("ListTagsForResource", ResourceARN=alarm_arn(Place(), "a"))["Tags"] == []


def test_tags(cloud: Cloud) -> None:
    cloud.put("a")
    arn = alarm_arn(Place(), "a")
    cloud("TagResource", ResourceARN=arn, Tags=[{"Key": "b", "Value": "1"}, {"Key": "a", "Value": ""}])
    cloud("TagResource", ResourceARN=arn, Tags=[{"Key": "b", "Value": "2"}])
    cloud("UntagResource", ResourceARN=arn, TagKeys=["a", "none"])
    assert cloud("ListTagsForResource", ResourceARN=arn)["Tags"] == [{"Key": "b", "Value": "2"}]
    gone = refused(cloud, "ListTagsForResource", ResourceARN=arn + "x")
    assert (gone.code, gone.status) == ("ResourceNotFoundException", 404)
    many = [{"Key": str(n), "Value": ""} for n in range(51)]
    assert "50" in refused(cloud, "TagResource", ResourceARN=arn, Tags=many).message

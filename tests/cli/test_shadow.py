"""What ``understudy shadow`` makes of its options and of CloudWatch's answers; journeys run it for real."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import click
import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from click.testing import CliRunner

from understudy.cli import main, shadow, shadow_report

NOW_S = 1_800_000_000.0
NOW = datetime.fromtimestamp(NOW_S, UTC)


def test_no_words_about_time_leave_it_to_the_server() -> None:
    assert shadow.plan_schedule(NOW_S, None, None) == {}


@pytest.mark.parametrize(
    ("starts_at", "duration", "start", "end"),
    [
        (None, "2h", NOW, NOW + timedelta(hours=2)),
        ("6h", None, NOW + timedelta(hours=6), None),
        ("6h", "1d", NOW + timedelta(hours=6), NOW + timedelta(hours=30)),
        (
            "2030-01-31T08:00",
            "1h",
            datetime(2030, 1, 31, 8, tzinfo=UTC),
            datetime(2030, 1, 31, 9, tzinfo=UTC),
        ),
        ("2030-01-31T08:00+02:00", None, datetime(2030, 1, 31, 6, tzinfo=UTC), None),
    ],
)
def test_schedules(
    starts_at: str | None, duration: str | None, start: datetime, end: datetime | None
) -> None:
    expected = {"StartTime": start} if end is None else {"StartTime": start, "EndTime": end}
    assert shadow.plan_schedule(NOW_S, starts_at, duration) == expected


@pytest.mark.parametrize(
    ("starts_at", "duration", "hint"), [("soon", None, "--at"), (None, "long", "--duration")]
)
def test_times_that_are_none(starts_at: str | None, duration: str | None, hint: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        shadow.plan_schedule(NOW_S, starts_at, duration)
    assert caught.value.param_hint == hint


def summary(name: str, kind: str, count: int) -> dict[str, Any]:
    size = {"InstanceType": kind, "InstanceCount": count}
    return {
        "VariantName": name,
        "ModelName": f"{name}-model",
        "Status": "InService",
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": size,
        },
    }


@pytest.mark.parametrize(
    ("size", "kind", "count"),
    [("production", "ml.m5.large", 3), ("shadow", "ml.c5.large", 1), ("ml.m5.xlarge:7", "ml.m5.xlarge", 7)],
)
def test_the_three_sizes_of_a_promotion(size: str, kind: str, count: int) -> None:
    source, candidate = summary("old", "ml.m5.large", 3), summary("new", "ml.c5.large", 1)
    desired = shadow.desired_variant(size, source, candidate)
    expected = {name: value for name, value in summary("new", kind, count).items() if name != "Status"}
    assert desired == expected


@pytest.mark.parametrize("size", ["", "ml.m5.xlarge", "ml.m5.xlarge:0", "ml.m5.xlarge:x", ":"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(click.BadParameter):
        shadow.desired_variant(size, summary("old", "t", 1), summary("new", "t", 1))


def test_figures_of_many_periods_become_one() -> None:
    client = boto3.client(
        "cloudwatch", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    told = {
        "Schedule": {"StartTime": NOW, "EndTime": NOW + timedelta(days=7)},
        "EndpointMetadata": {"EndpointName": "e"},
        "ModelVariants": [{"VariantName": "old"}],
    }
    with Stubber(client) as stub:
        for _, metric, namespace, statistic, _ in shadow_report.ROWS:
            wanted = (
                {"ExtendedStatistics": [statistic]}
                if statistic == "p99"
                else {"Statistics": ["Sum", "SampleCount"]}
            )
            points: list[dict[str, Any]] = [
                {"Timestamp": NOW, "Sum": 3000.0, "SampleCount": 1.0, "ExtendedStatistics": {"p99": 9000.0}},
                {"Timestamp": NOW, "Sum": 5000.0, "SampleCount": 3.0, "ExtendedStatistics": {"p99": 2000.0}},
            ]
            if metric == "DiskUtilization":
                points = []
            stub.add_response(
                "get_metric_statistics",
                {"Label": metric, "Datapoints": points},
                {
                    "Namespace": namespace,
                    "MetricName": metric,
                    "Dimensions": ANY,
                    "StartTime": ANY,
                    "EndTime": ANY,
                    "Period": 480,  # 7 days in at most 1440 datapoints
                    **wanted,
                },
            )
        figures = shadow_report.read_metrics(client, told, NOW_S + 30 * 86_400)
        stub.assert_no_pending_responses()
    assert figures["Invocations"] == {"old": 8000.0}
    assert figures["Model latency, average ms"] == {"old": 2.0}
    assert figures["Model latency, p99 ms (worst period)"] == {"old": 9.0}
    assert figures["Disk, average %"] == {"old": None}


def test_options_that_need_each_other() -> None:
    for options, words in ((["--endpoint", "e"], "needs --model"), (["--model", "m"], "needs --endpoint")):
        done = CliRunner().invoke(main, ["shadow", "start", "x", *options])
        assert done.exit_code == 2 and words in done.output
    done = CliRunner().invoke(main, ["shadow", "--help"])
    assert done.exit_code == 0 and all(
        name in done.output for name in ("start", "status", "promote", "remove")
    )
    for one in ("start", "status", "promote", "remove"):
        done = CliRunner().invoke(main, ["shadow", one, "--help"])
        assert done.exit_code == 0 and "Example" in done.output and "--json" in done.output


class LateClient:
    """Refuses schedules until one is new enough, as a server whose clock runs fast."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.schedules: list[dict[str, datetime]] = []

    def create_inference_experiment(self, **request: Any) -> dict[str, str]:
        self.schedules.append(request["Schedule"])
        if len(self.schedules) <= self.refusals:
            message = "Schedule.StartTime must not be in the past."
            raise ClientError({"Error": {"Code": "ValidationException", "Message": message}}, "Create")
        return {"InferenceExperimentArn": request["Name"]}


def test_now_is_read_again_when_it_was_past_on_arrival() -> None:
    client, now_s = LateClient(2), itertools.count(NOW_S)
    made = shadow._create(client, {"Name": "t"}, lambda: shadow.plan_schedule(next(now_s), None, "30d"))
    assert made == {"InferenceExperimentArn": "t"}
    starts = [one["StartTime"] for one in client.schedules]
    assert len(set(starts)) == 3 and starts == sorted(starts)
    assert {one["EndTime"] - one["StartTime"] for one in client.schedules} == {timedelta(days=30)}


def test_a_start_that_was_given_and_is_past_is_refused() -> None:
    client, now_s = LateClient(2), itertools.count(NOW_S)
    with pytest.raises(ClientError):
        shadow._create(client, {"Name": "t"}, lambda: shadow.plan_schedule(next(now_s), "2020-01-01", "7d"))
    assert len(client.schedules) == 1

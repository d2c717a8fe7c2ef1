"""``understudy logs`` over the CloudWatch Logs API as botocore parses it."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.stub import Stubber

from understudy.cli import logs


def stubbed() -> tuple[Any, Stubber]:
    client = boto3.client("logs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    return client, Stubber(client)


def event(number: int, at_ms: int = 0) -> dict[str, Any]:
    return {"eventId": str(number), "timestamp": at_ms, "message": f"line {number}", "logStreamName": "V/i-1"}


def test_pages_are_followed_and_repeated_events_shown_once() -> None:
    client, stub = stubbed()
    first = {"logGroupName": "g", "logStreamNamePrefix": "V/", "startTime": 5}
    stub.add_response("filter_log_events", {"events": [event(1), event(2)], "nextToken": "t"}, first)
    stub.add_response("filter_log_events", {"events": [event(2), event(3)]}, {**first, "nextToken": "t"})
    with stub:
        shown = list(logs._events(client, "g", "V", 5, follow=False))
    assert [item["eventId"] for item in shown] == ["1", "2", "3"]


def test_following_asks_again_from_shortly_before_the_newest(monkeypatch: Any) -> None:
    client, stub = stubbed()
    monkeypatch.setattr(logs.time, "sleep", lambda _: None)
    stub.add_client_error("filter_log_events", "ResourceNotFoundException")  # not started yet: wait
    stub.add_response("filter_log_events", {"events": [event(1, 60_000)]}, {"logGroupName": "g"})
    again = {"logGroupName": "g", "startTime": 55_000}
    stub.add_response("filter_log_events", {"events": [event(1, 60_000), event(2, 59_000)]}, again)
    with stub:
        found = logs._events(client, "g", None, None, follow=True)
        assert [next(found)["eventId"] for _ in range(2)] == ["1", "2"]


def test_lines_carry_time_and_stream() -> None:
    assert logs._clock(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
    assert '"timestamp_ms": 7' in logs._as_json(event(1, 7))

"""CloudWatch Logs' operations over the memory double and over workers' real files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.model import Shape
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.errors import ApiError
from understudy.core.names import Place
from understudy.core.ports import Logs, LogStream
from understudy.operations.log_patterns import PatternError, parse_pattern
from understudy.operations.log_reading import backwards, forwards, position_at
from understudy.operations.logs import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.logs import FileLogs
from understudy.stores.memory_logs import MemoryLogs

NOW_MS = 1_700_000_000_000
GROUP = "/aws/sagemaker/Endpoints/churn"
MODEL = botocore.session.get_session().get_service_model("logs")
Write = Callable[..., None]


class FixedClock:
    def now_s(self) -> float:
        return NOW_MS / 1000

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Logs, Write]]:
    """A log store, and how a worker's lines get into it: write(stream, at_ms, *lines, endpoint=...)."""
    if request.param == "memory":
        memory = MemoryLogs()

        def write(stream: str, at_ms: int, *lines: str, endpoint: str = "churn") -> None:
            memory.append(f"/aws/sagemaker/Endpoints/{endpoint}", stream, at_ms, *lines)

        yield memory, write
        return
    files = FileLogs(tmp_path, FixedClock())

    def write_file(stream: str, at_ms: int, *lines: str, endpoint: str = "churn") -> None:
        path = files.path(endpoint, *stream.split("/"))
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        files.index_once(at_ms)

    yield files, write_file


@pytest.fixture
def services(store: tuple[Logs, Write]) -> Services:
    unused = cast(Any, None)
    return Services(
        records=unused,
        buckets=unused,
        objects=unused,
        series=unused,
        logs=store[0],
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=FixedClock(),
        entropy=unused,
        place=Place(),
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )


@pytest.fixture
def write(store: tuple[Logs, Write]) -> Write:
    return store[1]


def check_shape(shape: Shape | None, value: Any) -> None:
    if shape is None:
        assert value == {}
    elif shape.type_name == "structure":
        assert set(value) <= set(shape.members)
        for name, member in value.items():
            check_shape(shape.members[name], member)
    elif shape.type_name == "list":
        for member in value:
            check_shape(shape.member, member)
    else:
        assert isinstance(
            value, {"string": str, "long": int, "integer": int, "boolean": bool}[shape.type_name]
        )
        assert value is not None and len(str(value)) >= (
            shape.metadata.get("min", 0) if isinstance(value, str) else 0
        )


def call(services: Services, operation: str, **request: Any) -> dict[str, Any]:
    answer = OPERATIONS["logs", operation](services, request)
    check_shape(MODEL.operation_model(operation).output_shape, answer)
    return answer


def refused(services: Services, operation: str, **request: Any) -> tuple[str, str]:
    with pytest.raises(ApiError) as raised:
        call(services, operation, **request)
    assert raised.value.status == 400
    return raised.value.code, raised.value.message


def messages(answer: dict[str, Any]) -> list[str]:
    return [event["message"] for event in answer["events"]]


# --- groups and streams --------------------------------------------------------------------------------


def test_groups_are_listed_by_prefix_and_part_of_their_name(services: Services, write: Write) -> None:
    for endpoint in ("churn", "churn-2", "fraud"):
        write("blue/i-0", NOW_MS, "x", endpoint=endpoint)

    def names(**filters: Any) -> list[str]:
        groups = call(services, "DescribeLogGroups", **filters)["logGroups"]
        return [group["logGroupName"].rpartition("/")[2] for group in groups]

    assert names() == ["churn", "churn-2", "fraud"]
    assert names(logGroupNamePrefix="/aws/sagemaker/Endpoints/churn") == ["churn", "churn-2"]
    assert names(logGroupNamePattern="rau") == ["fraud"]
    assert names(logGroupNamePrefix="/other") == []
    assert names(logGroupClass="INFREQUENT_ACCESS") == []
    assert names(logGroupIdentifiers=[f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}"]) == ["churn"]
    code, _ = refused(services, "DescribeLogGroups", logGroupNamePrefix="a", logGroupNamePattern="b")
    assert code == "InvalidParameterException"
    (group,) = call(services, "DescribeLogGroups", logGroupNamePrefix=GROUP + "-")["logGroups"]
    assert group["arn"] == f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}-2:*"
    assert group["storedBytes"] == 2


def test_listings_have_pages(services: Services, write: Write) -> None:
    for number in range(7):
        write(f"blue/i-{number}", NOW_MS + number % 3, "x")
        write("blue/i-0", NOW_MS, "x", endpoint=f"e{number}")
    for operation, member, name, more in (
        ("DescribeLogGroups", "logGroups", "logGroupName", {}),
        ("DescribeLogStreams", "logStreams", "logStreamName", {"logGroupName": GROUP}),
        (
            "DescribeLogStreams",
            "logStreams",
            "logStreamName",
            {"logGroupName": GROUP, "orderBy": "LastEventTime"},
        ),
        ("DescribeLogStreams", "logStreams", "logStreamName", {"logGroupName": GROUP, "descending": True}),
    ):
        whole = [each[name] for each in call(services, operation, **more)[member]]
        assert len(whole) >= 7
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = call(services, operation, limit=2, **more, **token)
            assert 1 <= len(page[member]) <= 2
            found += [each[name] for each in page[member]]
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        assert found == whole
        for bad in ("x", "AAAA", "WzFd", "W251bGwsbnVsbF0", "W251bGxd"):
            assert refused(services, operation, nextToken=bad, **more)[0] == "InvalidParameterException"


def test_streams_are_listed_by_name_and_by_their_last_event(services: Services, write: Write) -> None:
    write("blue/i-0", NOW_MS, "a")
    write("blue/i-1", NOW_MS + 1, "a")
    write("green/i-0", NOW_MS + 2, "a")
    write("blue/i-0", NOW_MS + 3, "a")

    def names(**more: Any) -> list[str]:
        return [
            s["logStreamName"]
            for s in call(services, "DescribeLogStreams", logGroupName=GROUP, **more)["logStreams"]
        ]

    assert names() == ["blue/i-0", "blue/i-1", "green/i-0"]
    assert names(descending=True) == ["green/i-0", "blue/i-1", "blue/i-0"]
    assert names(logStreamNamePrefix="blue/") == ["blue/i-0", "blue/i-1"]
    assert names(orderBy="LastEventTime", descending=True) == ["blue/i-0", "green/i-0", "blue/i-1"]
    code, message = refused(
        services, "DescribeLogStreams", logGroupName=GROUP, orderBy="LastEventTime", logStreamNamePrefix="b"
    )
    assert (code, message) == (
        "InvalidParameterException",
        "Cannot order by LastEventTime with a logStreamNamePrefix.",
    )
    stream = call(services, "DescribeLogStreams", logGroupName=GROUP)["logStreams"][0]
    assert (stream["firstEventTimestamp"], stream["lastEventTimestamp"]) == (NOW_MS, NOW_MS + 3)
    assert stream["arn"].endswith(f":log-group:{GROUP}:log-stream:blue/i-0")


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("DescribeLogStreams", {}),
        ("GetLogEvents", {"logStreamName": "blue/i-0"}),
        ("FilterLogEvents", {}),
        ("DeleteLogGroup", {}),
    ],
)
def test_unknown_groups_and_streams_are_not_found(
    services: Services, write: Write, operation: str, more: dict[str, Any]
) -> None:
    code, message = refused(services, operation, logGroupName="/nope", **more)
    assert (code, message) == ("ResourceNotFoundException", "The specified log group does not exist.")
    write("green/i-0", NOW_MS, "x")
    if operation == "GetLogEvents":
        code, message = refused(services, operation, logGroupName=GROUP, **more)
        assert (code, message) == ("ResourceNotFoundException", "The specified log stream does not exist.")
    if operation != "DeleteLogGroup":
        assert refused(services, operation, **more)[0] == "InvalidParameterException"
        both = {"logGroupName": GROUP, "logGroupIdentifier": GROUP}
        assert refused(services, operation, **both, **more)[0] == "InvalidParameterException"


def test_a_deleted_group_is_forgotten(services: Services, write: Write) -> None:
    write("blue/i-0", NOW_MS, "secret")
    call(services, "DeleteLogGroup", logGroupName=GROUP)
    assert call(services, "DescribeLogGroups")["logGroups"] == []


# --- GetLogEvents --------------------------------------------------------------------------------------


@pytest.fixture
def ten(services: Services, write: Write) -> Services:
    """One stream with lines 0 to 9, a second apart, and a blank one."""
    for number in range(10):
        write("blue/i-0", NOW_MS + 1000 * number, f"line {number}", "")
    return services


def get(services: Services, **more: Any) -> dict[str, Any]:
    return call(services, "GetLogEvents", logGroupName=GROUP, logStreamName="blue/i-0", **more)


def lines(*numbers: int) -> list[str]:
    return [f"line {number}" for number in numbers]


def test_the_newest_events_come_without_asking_for_the_head(ten: Services) -> None:
    assert messages(get(ten)) == lines(*range(10))
    assert messages(get(ten, limit=3)) == lines(7, 8, 9)
    assert messages(get(ten, limit=3, startFromHead=True)) == lines(0, 1, 2)
    event = get(ten, limit=1)["events"][0]
    assert event == {"timestamp": NOW_MS + 9000, "message": "line 9", "ingestionTime": NOW_MS + 9000}


def test_tokens_walk_in_both_directions_and_repeat_at_the_ends(ten: Services, write: Write) -> None:
    page = get(ten, limit=4)
    assert messages(page) == lines(6, 7, 8, 9)
    page = get(ten, limit=4, nextToken=page["nextBackwardToken"])
    assert messages(page) == lines(2, 3, 4, 5)
    page = get(ten, limit=4, nextToken=page["nextBackwardToken"])
    assert messages(page) == lines(0, 1)
    end = get(ten, limit=4, nextToken=page["nextBackwardToken"])
    assert (end["events"], end["nextBackwardToken"]) == ([], page["nextBackwardToken"])

    token, found = end["nextForwardToken"], []
    while True:
        page = get(ten, limit=3, nextToken=token)
        if page["nextForwardToken"] == token:
            assert page["events"] == []
            break
        found += messages(page)
        token = page["nextForwardToken"]
    assert found == lines(*range(10))
    write("blue/i-0", NOW_MS + 60_000, "line 10")
    assert messages(get(ten, nextToken=token)) == lines(10)


def test_the_start_is_included_and_the_end_is_not(ten: Services) -> None:
    times = {"startTime": NOW_MS + 2000, "endTime": NOW_MS + 5000}
    assert messages(get(ten, **times)) == lines(2, 3, 4)
    assert messages(get(ten, **times, limit=2)) == lines(3, 4)
    assert messages(get(ten, **times, limit=2, startFromHead=True)) == lines(2, 3)
    assert messages(get(ten, startTime=NOW_MS + 2001, limit=1, startFromHead=True)) == lines(3)
    assert get(ten, startTime=NOW_MS + 99_000)["events"] == []
    assert get(ten, endTime=NOW_MS)["events"] == []
    assert (
        refused(ten, "GetLogEvents", logGroupName=GROUP, logStreamName="blue/i-0", startTime=2, endTime=1)[0]
        == "InvalidParameterException"
    )


@pytest.mark.parametrize("token", ["", "x", "f/", "f/-1", "g/1", "f/1x", "f/" + "9" * 99])
def test_bad_tokens_are_refused(ten: Services, token: str) -> None:
    found = refused(ten, "GetLogEvents", logGroupName=GROUP, logStreamName="blue/i-0", nextToken=token)
    assert found == ("InvalidParameterException", "The specified nextToken is invalid.")


def test_an_empty_stream_has_tokens_that_go_on_later(
    services: Services, store: tuple[Logs, Write], write: Write
) -> None:
    write("blue/i-0", NOW_MS)
    if not services.logs.streams(GROUP):
        pytest.skip("this store shows no stream without a line")
    for head in (True, False):
        page = get(services, startFromHead=head)
        assert page["events"] == []
        again = get(services, nextToken=page["nextForwardToken"])
        assert again["nextForwardToken"] == page["nextForwardToken"]
    write("blue/i-0", NOW_MS, "line 0")
    assert messages(get(services, nextToken=page["nextForwardToken"])) == lines(0)


def test_a_page_is_a_mebibyte_at_most_but_one_event_at_least(services: Services, write: Write) -> None:
    write("blue/i-0", NOW_MS, *("x" * 200_000 for _ in range(12)))
    sizes, token = [], None
    for _ in range(4):
        page = get(services, startFromHead=True, **({"nextToken": token} if token else {}))
        sizes.append(len(page["events"]))
        token = page["nextForwardToken"]
    assert sizes == [5, 5, 2, 0]


# --- FilterLogEvents -----------------------------------------------------------------------------------


def filtered(services: Services, **more: Any) -> dict[str, Any]:
    return call(services, "FilterLogEvents", logGroupName=GROUP, **more)


@pytest.fixture
def busy(services: Services, write: Write) -> Services:
    """Three streams whose lines alternate in time; every tenth is an ERROR."""
    for number in range(30):
        stream = ("blue/i-0", "blue/i-1", "green/i-0")[number % 3]
        write(
            stream,
            NOW_MS + 100 * (number // 2),
            f"{'ERROR' if number % 10 == 9 else 'INFO'} line {number}",
            "",
        )
    return services


def test_streams_are_interleaved_by_time(busy: Services) -> None:
    answer = filtered(busy)
    times = [event["timestamp"] for event in answer["events"]]
    assert times == sorted(times)
    assert sorted(messages(answer)) == sorted(
        f"{'ERROR' if number % 10 == 9 else 'INFO'} line {number}" for number in range(30)
    )
    ids = [event["eventId"] for event in answer["events"]]
    assert len(set(ids)) == 30 and all(len(each) == 56 and each.isdigit() for each in ids)
    assert [event["eventId"] for event in filtered(busy)["events"]] == ids
    assert "nextToken" not in answer


def test_streams_can_be_chosen_by_name_and_prefix(busy: Services) -> None:
    def streams(**more: Any) -> set[str]:
        return {event["logStreamName"] for event in filtered(busy, **more)["events"]}

    assert streams(logStreamNames=["green/i-0"]) == {"green/i-0"}
    assert streams(logStreamNamePrefix="blue/") == {"blue/i-0", "blue/i-1"}
    assert streams(logStreamNamePrefix="red/") == set()
    bad = {"logGroupName": GROUP, "logStreamNames": ["green/i-0", "nope"]}
    assert refused(busy, "FilterLogEvents", **bad)[0] == "ResourceNotFoundException"
    bad = {"logGroupName": GROUP, "logStreamNames": ["green/i-0"], "logStreamNamePrefix": "green"}
    assert refused(busy, "FilterLogEvents", **bad)[0] == "InvalidParameterException"


def test_both_ends_of_the_time_range_are_included(busy: Services) -> None:
    found = filtered(busy, startTime=NOW_MS + 100, endTime=NOW_MS + 300)["events"]
    assert {event["timestamp"] - NOW_MS for event in found} == {100, 200, 300}
    assert len(found) == 6
    assert filtered(busy, startTime=NOW_MS + 100_000)["events"] == []
    assert filtered(busy, endTime=NOW_MS - 1)["events"] == []


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 7, 29, 30, 31])
@pytest.mark.parametrize("pattern", ["", "ERROR"])
def test_pages_together_are_the_whole_in_both_directions(
    busy: Services, write: Write, head: bool, limit: int, pattern: str
) -> None:
    whole = [
        event["eventId"] for event in filtered(busy, filterPattern=pattern, startFromHead=head)["events"]
    ]
    assert whole == sorted(whole, reverse=not head) or pattern == ""
    assert len(whole) == (3 if pattern else 30)
    found: list[str] = []
    token: dict[str, Any] = {"startFromHead": head}
    for page in itertools.count():
        answer = filtered(busy, filterPattern=pattern, limit=limit, **token)
        assert len(answer["events"]) <= limit
        found += [event["eventId"] for event in answer["events"]]
        if "nextToken" not in answer:
            break
        token = {"nextToken": answer["nextToken"]}
        if page == 0 and not head:
            write("blue/i-0", NOW_MS + 99_000, "ERROR newer than where the walk backwards began")
    assert found == whole


def test_following_by_start_time_and_event_id_sees_each_event_once(services: Services, write: Write) -> None:
    """What ``aws logs tail --follow`` does: ask again from the newest time seen, drop ids seen."""
    seen: dict[str, str] = {}
    start_ms = NOW_MS
    for number in range(12):
        write(f"blue/i-{number % 2}", NOW_MS + 10 * (number // 3), f"line {number}")
        for event in filtered(services, startTime=start_ms)["events"]:
            seen.setdefault(event["eventId"], event["message"])
            start_ms = max(start_ms, event["timestamp"])
    assert sorted(seen.values()) == sorted(lines(*range(12)))


def test_a_long_search_answers_in_parts(
    services: Services, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.operations.logs.MAX_SCANNED", 10)
    write("blue/i-0", NOW_MS, *(f"line {number}" for number in range(35)), "needle")
    pages, token = [], {}
    while True:
        answer = filtered(services, filterPattern="needle", **token)
        pages.append(messages(answer))
        if "nextToken" not in answer:
            break
        token = {"nextToken": answer["nextToken"]}
    assert pages == [[], [], [], ["needle"]]


@pytest.mark.parametrize("token", ["", "x", "AAAA", "W10", "WzEsMSwiYSIsMV0", "W251bGwsMSwiYSIsMV0"])
def test_bad_filter_tokens_are_refused(busy: Services, token: str) -> None:
    found = refused(busy, "FilterLogEvents", logGroupName=GROUP, nextToken=token)
    assert found == ("InvalidParameterException", "The specified nextToken is invalid.")


def test_bad_patterns_are_refused(busy: Services) -> None:
    code, message = refused(
        busy, "FilterLogEvents", logGroupName=GROUP, filterPattern='{ $.level = "ERROR" }'
    )
    assert code == "InvalidParameterException" and "JSON" in message


# --- patterns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "line", "expected"),
    [
        ("", "anything", True),
        ("   ", "anything", True),
        ("ERROR", "an ERROR here", True),
        ("ERROR", "an error here", False),
        ("ERROR timeout", "timeout ERROR", True),
        ("ERROR timeout", "ERROR", False),
        ('"an ERROR"', "an ERROR here", True),
        ('"ERROR an"', "an ERROR here", False),
        ('"say \\"hi\\""', 'say "hi"', True),
        ("ERROR -retry", "ERROR retry", False),
        ("ERROR -retry", "ERROR", True),
        ('-"not found"', "was not found", False),
        ("?ERROR ?WARN", "WARN x", True),
        ("?ERROR ?WARN", "INFO x", False),
        ('?"a b" c', "c a b", True),
        ('?"a b" c', "a b", False),
        ("größe", "die größe", True),
    ],
)
def test_patterns(pattern: str, line: str, expected: bool) -> None:
    assert parse_pattern(pattern).matches(line) is expected


@pytest.mark.parametrize(
    "pattern", ["{$.a = 1}", "[a, b]", "%re%", "a.b", '"open', "--a", "-", "?", '"a"b', "a=1"]
)
def test_unknown_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        parse_pattern(pattern)


@given(st.text(max_size=60))
def test_any_pattern_is_understood_or_refused(text: str) -> None:
    try:
        parse_pattern(text).matches("ERROR: something")
    except PatternError:
        return


# --- reading -------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.text(st.characters(exclude_categories=["Cs"]), max_size=40_000)),
        max_size=12,
    ),
    st.data(),
)
def test_both_directions_and_the_search_agree_with_the_list(
    steps: list[tuple[int, str]], data: st.DataObject
) -> None:
    logs, at_ms = MemoryLogs(), 100
    logs.append(GROUP, "s", at_ms)
    for step_ms, text in steps:
        at_ms += step_ms
        logs.append(GROUP, "s", at_ms, text)
    (stream,) = logs.streams(GROUP)
    assert isinstance(stream, LogStream)
    everything = [event for event in logs.read(GROUP, "s") if event.message]
    end = data.draw(st.integers(0, stream.stored_bytes + 5))
    assert list(backwards(logs, GROUP, stream, end)) == [e for e in reversed(everything) if e.position < end]
    assert list(forwards(logs, GROUP, "s", end)) == [e for e in everything if e.position >= end]
    wanted_ms = data.draw(st.integers(95, at_ms + 5))
    place = position_at(logs, GROUP, stream, wanted_ms)
    assert list(forwards(logs, GROUP, "s", place)) == [e for e in everything if e.at_ms >= wanted_ms]

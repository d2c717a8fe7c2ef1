"""Path and headers of InvokeEndpoint against botocore's constraints."""

from __future__ import annotations

import pytest

from understudy.dataplane.guard import parse_head
from understudy.dataplane.invocation import Invocation, read_invocation
from understudy.worker import wire


def read(*headers: str, path: str = "/endpoints/e/invocations", method: str = "POST") -> Invocation | None:
    lines = "".join(f"{header}\r\n" for header in headers)
    return read_invocation(parse_head(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()))


def test_the_wire_head_carries_what_the_container_needs() -> None:
    invocation = read(
        "Content-Type: text/csv",
        "Accept: application/json",
        "X-Amzn-SageMaker-Custom-Attributes: trace=é",
        "X-Amzn-SageMaker-Inference-Id: id-1",
        "X-Amzn-SageMaker-Target-Model: m.tar.gz",
        "X-Amzn-SageMaker-Target-Container-Hostname: second",
        "X-Amzn-SageMaker-Session-Id: NEW_SESSION",
        path="/endpoints/my-e/invocations",
    )
    assert invocation is not None
    assert (invocation.endpoint, invocation.streams) == ("my-e", False)
    head = wire.decode_request_head(invocation.wire_head("blue"))
    assert head == wire.RequestHead(
        "text/csv",
        "application/json",
        "",
        "trace=é",
        "id-1",
        "m.tar.gz",
        "second",
        "NEW_SESSION",
        "blue",
    )


def test_the_streaming_kin_takes_its_own_accept() -> None:
    invocation = read(
        "Accept: a/a", "X-Amzn-SageMaker-Accept: b/b", path="/endpoints/e/invocations-response-stream"
    )
    assert invocation is not None
    head = wire.decode_request_head(invocation.wire_head("v"))
    assert (head.accept, head.wants_stream) == ("b/b", True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/endpoints/e/invocations"),
        ("POST", "/endpoints/e/async-invocations"),
        ("POST", "/endpoints/e/invocations/"),
        ("POST", "/endpoints/a/b/invocations"),
        ("POST", "/endpoints//invocations"),
        ("POST", "/"),
    ],
)
def test_other_requests_are_none(method: str, path: str) -> None:
    assert read(method=method, path=path) is None


@pytest.mark.parametrize(
    ("header", "member", "must"),
    [
        (f"Content-Type: {'a' * 1025}", "contentType", "have length less than or equal to 1024"),
        ("Content-Type: ä", "contentType", "satisfy regular expression pattern: \\p{ASCII}*"),
        (f"Accept: {'a' * 1025}", "accept", "have length less than or equal to 1024"),
        (f"X-Amzn-SageMaker-Custom-Attributes: {'a' * 1025}", "customAttributes", "equal to 1024"),
        (f"X-Amzn-SageMaker-Target-Variant: {'a' * 64}", "targetVariant", "equal to 63"),
        ("X-Amzn-SageMaker-Target-Variant: a_b", "targetVariant", "regular expression pattern"),
        ("X-Amzn-SageMaker-Inference-Id: ", "inferenceId", "have length greater than or equal to 1"),
        (f"X-Amzn-SageMaker-Inference-Id: {'a' * 65}", "inferenceId", "equal to 64"),
        (f"X-Amzn-SageMaker-Session-Id: {'a' * 257}", "sessionId", "equal to 256"),
        ("X-Amzn-SageMaker-Session-Id: -a", "sessionId", "regular expression pattern"),
        ("X-Amzn-SageMaker-Target-Container-Hostname: -", "targetContainerHostname", "pattern"),
        (f"X-Amzn-SageMaker-Target-Model: {'a' * 1025}", "targetModel", "equal to 1024"),
    ],
)
def test_broken_constraints_are_told(header: str, member: str, must: str) -> None:
    invocation = read(header)
    assert invocation is not None
    assert invocation.fault is not None
    assert f"at '{member}' failed to satisfy constraint: Member must " in invocation.fault
    assert must in invocation.fault
    assert invocation.fault.startswith("1 validation error detected: ")


def test_bounds_themselves_are_allowed() -> None:
    invocation = read(
        f"Content-Type: {'a' * 1024}",
        f"X-Amzn-SageMaker-Target-Variant: {'a' * 63}",
        f"X-Amzn-SageMaker-Inference-Id: {'a' * 64}",
        path=f"/endpoints/{'e' * 63}/invocations",
    )
    assert invocation is not None
    assert invocation.fault is None


def test_all_findings_come_in_one_message() -> None:
    invocation = read("X-Amzn-SageMaker-Inference-Id: ", path=f"/endpoints/{'e' * 64}/invocations")
    assert invocation is not None
    assert invocation.fault is not None
    assert invocation.fault.startswith("2 validation errors detected: ")


def test_the_name_is_percent_decoded_before_it_is_judged() -> None:
    plain, crooked = read(path="/endpoints/a%2Db/invocations"), read(path="/endpoints/a%2Fb/invocations")
    assert plain is not None
    assert (plain.endpoint, plain.fault) == ("a-b", None)
    assert crooked is not None
    assert crooked.fault is not None


def test_a_copys_head_is_marked_and_apart_from_a_requests_of_the_same_name() -> None:
    plain = read("Content-Type: text/csv")
    stream = read("Content-Type: text/csv", path="/endpoints/e/invocations-response-stream")
    assert plain is not None and stream is not None
    for invocation, flags in ((plain, ""), (stream, "s")):
        copy = wire.decode_request_head(invocation.wire_head("green", mirrored=True))
        assert (copy.flags, copy.variant, copy.is_mirrored) == (flags + "m", "green", True)
        assert wire.decode_request_head(invocation.wire_head("green")).flags == flags
        assert invocation.wire_head("green", mirrored=True) is invocation.wire_head("green", mirrored=True)


def test_what_the_caller_told_is_kept_for_capture() -> None:
    invocation = read(
        "Content-Type: text/csv",
        "X-Amzn-SageMaker-Custom-Attributes: trace=1",
        "X-Amzn-SageMaker-Inference-Id: id-1",
    )
    assert invocation is not None
    assert invocation.told == ("text/csv", "id-1", "trace=1")
    bare = read()
    assert bare is not None
    assert bare.told == ("", None, None)

"""Answers as botocore reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.awsrequest import HeadersDict
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import create_parser

from understudy.core.errors import ValidationError
from understudy.core.names import Place
from understudy.dataplane import answers


def test_model_error_has_the_wording_of_aws() -> None:
    error = answers.model_error(Place(region="us-west-2"), "churn", "primary", 415, "unsupported")
    assert error.message == (
        'Received client error (415) from primary with message "unsupported". See'
        " https://us-west-2.console.aws.amazon.com/cloudwatch/home?region=us-west-2#logEventViewer:"
        "group=/aws/sagemaker/Endpoints/churn in account 123456789012 for more information."
    )
    assert error.members["OriginalStatusCode"] == 415
    assert error.members["OriginalMessage"] == "unsupported"
    assert error.members["LogStreamArn"].startswith("arn:aws:logs:us-west-2:123456789012:log-group:")


@pytest.mark.parametrize("status", [0, 302, 500, 503, 700])
def test_what_is_not_the_clients_is_a_server_error(status: int) -> None:
    error = answers.model_error(Place(), "e", "primary", status, "x" * 5000)
    assert error.message.startswith(f"Received server error ({status}) from primary with message ")
    assert error.message.endswith("for more information.")
    assert len(error.message) <= 2048


def test_errors_are_rest_json() -> None:
    data = answers.render_error(ValidationError("no"), b"id", closes=True)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"x-amzn-ErrorType: ValidationError" in head
    assert b"Connection: close" in head
    assert json.loads(body) == {"Message": "no"}


def test_templates_survive_percent_signs() -> None:
    template = answers.success_template("v", b"text/csv\0a=100%d", b"id-", closes=False)
    data = template % (255, 2, b"%s")
    assert b"X-Amzn-SageMaker-Custom-Attributes: a=100%d\r\n" in data
    assert data.endswith(b"x-amzn-RequestId: id-0000000000ff\r\nContent-Length: 2\r\n\r\n%s")


def test_sessions_are_told() -> None:
    headers = answers.success_headers("v", b"t\0\0\0new; Expires=x\0old", streams=False)
    assert b"X-Amzn-SageMaker-New-Session-Id: new; Expires=x\r\n" in headers
    assert b"X-Amzn-SageMaker-Closed-Session-Id: old\r\n" in headers


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\rb", b"\x01"])
def test_heads_that_would_break_the_framing_are_refused(value: bytes) -> None:
    with pytest.raises(answers.UnsafeHead):
        answers.success_headers("v", b"text/csv\0" + value, streams=False)


def test_botocore_reads_event_messages() -> None:
    buffer: Any = EventStreamBuffer()
    buffer.add_data(answers.event_message(b"part\0one") + answers.exception_message("StreamBroken", "gone"))
    part, failure = list(buffer)
    assert part.payload == b"part\0one"
    assert part.headers[":event-type"] == "PayloadPart"
    assert failure.headers[":exception-type"] == "ModelStreamError"
    assert json.loads(failure.payload) == {"Message": "gone", "ErrorCode": "StreamBroken"}


@pytest.mark.parametrize(
    ("protocol", "content_type"),
    [
        ("json", b"application/x-amz-json-1.0"),
        ("query", b"application/x-www-form-urlencoded; charset=utf-8"),
        ("smithy-rpc-v2-cbor", b"application/cbor"),
    ],
)
def test_a_server_that_is_away_is_told_in_the_clients_protocol(protocol: str, content_type: bytes) -> None:
    data = answers.unavailable(content_type, b"", "The controller starts. " * 20, b"request-1")
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    response = {"status_code": 503, "headers": HeadersDict(headers), "body": body}
    parsed = create_parser(protocol).parse(response, None)
    assert parsed["Error"]["Code"] == "ServiceUnavailable"
    assert parsed["Error"]["Message"].startswith("The controller starts.")

"""Own calls over HTTP: signatures, paths, bodies, errors, through the client that the shell uses."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.cli.own_calls import Refused, call_server
from understudy.core.errors import ApiError
from understudy.operations.services import Services
from understudy.operations.understudy.calls import ROOT, OwnCall, OwnRequest
from understudy.operations.understudy.registry import OWN_CALLS
from understudy.sdk.servers import Server


def echo(_: Services, request: OwnRequest) -> dict[str, Any]:
    return {"labels": request.labels, "query": request.query, "body": request.body}


def fail(_: Services, request: OwnRequest) -> dict[str, Any]:
    if request.body.get("how") == "modelled":
        raise ApiError("no room", code="InsufficientStorage", status=507)
    raise RuntimeError("secret detail")


CALLS = (
    OwnCall("GET", "/endpoints/{endpoint}/echo", echo, query=frozenset({"by"})),
    OwnCall("POST", "/endpoints/{endpoint}/echo", echo, body=None),
    OwnCall("POST", "/fail", fail, body=frozenset({"how"})),
)


@pytest.fixture
def server(serve_own: Any) -> Any:
    return serve_own(CALLS)


def test_labels_query_and_body_arrive(server: Server) -> None:
    path = "/understudy/v1/endpoints/a%20b%2Fc/echo"
    assert call_server(server, "GET", path, query={"by": "x & y/ü"}) == {
        "labels": {"endpoint": "a b/c"},
        "query": {"by": "x & y/ü"},
        "body": {},
    }
    assert call_server(server, "POST", path, body={"n": [1, None, "ü"]})["body"] == {"n": [1, None, "ü"]}


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "code"),
    [
        ("GET", "/understudy/v1/nothing", None, None, "UnknownOperationException"),
        ("DELETE", "/understudy/v1/endpoints/e/echo", None, None, "UnknownOperationException"),
        ("GET", "/understudy/v1/endpoints/e/echo", {"other": "1"}, None, "ValidationException"),
        ("POST", "/understudy/v1/fail", None, {"what": 1}, "ValidationException"),
        ("POST", "/understudy/v1/fail", None, {"how": "modelled"}, "InsufficientStorage"),
        ("POST", "/understudy/v1/fail", None, {}, "InternalFailure"),
    ],
)
def test_refusals_are_modelled(
    server: Server, method: str, path: str, query: Any, body: Any, code: str
) -> None:
    with pytest.raises(Refused) as refused:
        call_server(server, method, path, query=query, body=body)
    assert refused.value.code == code
    assert "secret detail" not in refused.value.message


def test_wrong_keys_and_unsigned_requests_are_refused(server: Server) -> None:
    wrong = replace(server, secret_access_key="wrong")
    with pytest.raises(Refused) as refused:
        call_server(wrong, "GET", "/understudy/v1/endpoints/e/echo")
    assert refused.value.code == "InvalidSignatureException"
    status, told = raw(server, "GET", "/understudy/v1/endpoints/e/echo")
    assert (status, told["__type"]) == (403, "MissingAuthenticationToken")


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_what_is_no_json_object_is_refused(serve_own: Any, body: bytes) -> None:
    status, told = raw(serve_own(CALLS, "none"), "POST", "/understudy/v1/endpoints/e/echo", body)
    assert (status, told["__type"]) == (400, "ValidationException")


@pytest.mark.parametrize("target", ["?by=1&by=2", "?by=%ff", "?by"])
def test_bad_queries_are_refused(serve_own: Any, target: str) -> None:
    status, told = raw(serve_own(CALLS, "none"), "GET", f"/understudy/v1/endpoints/e/echo{target}")
    assert (status, told["__type"]) == (400, "ValidationException")


def raw(server: Server, method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=20)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_every_call_is_told() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()
    assert [call.path for call in OWN_CALLS if f"| `{call.method} {ROOT}{call.path}` |" not in page] == []

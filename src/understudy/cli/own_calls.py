"""Calls of Understudy's own API from the shell.  Main function: :func:`call_server`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import click

from understudy.sdk.servers import Server

TIMEOUT_S = 60.0


class Refused(click.ClickException):
    """The server answered with an error.

    Attributes:
        status: Of HTTP.
        code: e.g. ``ValidationException``.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(click.ClickException):
    """The server did not answer, or with something that is no answer."""


def endpoint_path(endpoint: str, rest: str) -> str:
    """Write the path of an endpoint's call."""
    return f"/understudy/v1/endpoints/{quote(endpoint, safe='')}/{rest}"


def call_server(
    server: Server,
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Make one call, signed with the server's key.

    Args:
        path: As it goes on the wire, percent-encoded.
        query: Members that are None are left out.

    Raises:
        Refused: the server answered with an error.
        Unreachable: it can't be reached.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    given = {name: str(value) for name, value in (query or {}).items() if value is not None}
    url = server.endpoint_url + path + (f"?{urlencode(given, quote_via=quote)}" if given else "")
    data = b"" if body is None else json.dumps(body, allow_nan=False).encode()
    headers = {"Content-Type": "application/json"} if data else {}
    signed = AWSRequest(method=method, url=url, data=data, headers=headers)
    credentials = Credentials(server.access_key_id, server.secret_access_key)
    SigV4Auth(credentials, "sagemaker", server.region).add_auth(signed)
    request = urllib.request.Request(
        url, data=data or None, method=method, headers=dict(signed.headers.items())
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as response:
            value = json.load(response)
    except urllib.error.HTTPError as error:
        raise _refusal(error.code, error.read(100_000)) from error
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"The server at {server.endpoint_url} does not answer ({error}). If its process hangs, stop it "
            "and start it again with `understudy serve`."
        ) from error
    assert isinstance(value, dict)
    return value


def _refusal(status: int, data: bytes) -> Refused:
    try:
        told = json.loads(data)
        return Refused(status, str(told["__type"]), str(told["message"]))
    except (ValueError, KeyError, TypeError):
        return Refused(
            status, str(status), f"The server answered {status}: {data[:500].decode('utf-8', 'replace')}"
        )

"""What is sent and what must come back: a plan is a list of requests that the engine goes round.

Owns the plan's file (one JSON object a line) and the bytes of requests.  Main functions:
:func:`write_plan`, :func:`read_plan`, :func:`sign_plan`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.loadgen.signing import authorization


@dataclass(frozen=True)
class Request:
    """One request and its right answer.

    Attributes:
        body_file: Path of the body, instead of ``body``: for large ones.
        expect: Exactly the answer's body; None: the request's own body (an echo).
        contains: Must occur in the answer's body, instead of ``expect``: for answers that carry ids.
    """

    path: str
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body_file: str = ""
    expect: str | None = None
    contains: str | None = None


class Item:
    """A request ready to be sent.

    Attributes:
        tail: What an answer in one piece ends with, body included; empty when only parsing can tell.
        data: Head and body.
    """

    __slots__ = ("contains", "data", "expect", "request", "tail")

    def __init__(self, request: Request, data: bytes, body: bytes) -> None:
        self.request = request
        self.data = data
        self.contains = request.contains.encode() if request.contains is not None else b""
        self.expect = body if request.expect is None else request.expect.encode()
        self.tail = b"" if self.contains else b"\r\n\r\n" + self.expect

    def is_right(self, body: bytes) -> bool:
        """Tell whether an answer is the right one."""
        return self.contains in body if self.contains else body == self.expect


def write_plan(path: Path, requests: Iterable[Request]) -> None:
    """Write a plan's file."""
    with path.open("w") as file:
        for request in requests:
            fields = {name: value for name, value in vars(request).items() if value not in (None, "", {})}
            file.write(json.dumps(fields) + "\n")


def read_plan(path: Path, host: str) -> list[Item]:
    """Read a plan's file.

    Args:
        host: The Host header.
    Raises:
        ValueError: it is empty.
    """
    requests = [Request(**json.loads(line)) for line in path.read_text().splitlines()]
    if not requests:
        raise ValueError(f"{path} has no requests")
    return [_item(request, {"Host": host, **request.headers}, _body(request)) for request in requests]


def sign_plan(
    plan: list[Item],
    host: str,
    *,
    access_key_id: str,
    secret_access_key: str,
    region: str,
    service: str = "sagemaker",
    copies: int = 1,
) -> list[Item]:
    """Sign a plan before the load begins: signing costs nothing while measuring.

    Every copy has an invocation id of its own, as every call of boto3 has, so that no two requests of the
    plan have the same head or signature and no server can have seen one before.

    Args:
        copies: How often the plan is repeated.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signed: list[Item] = []
    for _ in range(copies):
        for item in plan:
            body = _body(item.request)
            headers = {
                "Host": host,
                **item.request.headers,
                "X-Amz-Date": moment,
                "amz-sdk-invocation-id": str(uuid.uuid4()),
                "amz-sdk-request": "attempt=1",
            }
            value = authorization(
                item.request.path,
                headers,
                body,
                access_key_id=access_key_id,
                secret_access_key=secret_access_key,
                region=region,
                service=service,
            )
            signed.append(_item(item.request, {**headers, "Authorization": value}, body))
    return signed


def _body(request: Request) -> bytes:
    return Path(request.body_file).read_bytes() if request.body_file else request.body.encode()


def _item(request: Request, headers: dict[str, str], body: bytes) -> Item:
    lines = [f"POST {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return Item(request, head.encode() + body, body)

"""A client of an ASGI application in this process: no socket, no server."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        data = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        return json.loads(data)


class AsgiClient:
    """Keeps cookies, as a browser does."""

    def __init__(self, application: Any, host: str = "127.0.0.1:8080") -> None:
        self.application = application
        self.host = host
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        given = {"host": self.host, **(headers or {})}
        if self.cookies:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(dict(message))

        asyncio.run(self.application(scope, receive, send))
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        if "set-cookie" in told:
            name, _, rest = told["set-cookie"].partition("=")
            self.cookies[name] = rest.partition(";")[0].strip('"')
        return Told(sent[0]["status"], told, b"".join(one.get("body", b"") for one in sent[1:]))

    def get(self, path: str, **headers: str) -> Told:
        return self.ask("GET", f"/console{path}", headers=headers)

    def post(self, path: str, value: Any, **headers: str) -> Told:
        sent = {"content-type": "application/json", "x-understudy-csrf": self.csrf}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        return self.ask("POST", f"/console/api/{path}", body=json.dumps(value).encode(), headers=sent)

"""A Gateway with tiny operations, served by uvicorn on a free TCP port."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import pytest
import uvicorn

import understudy.sdk.servers
from understudy.aws.catalog import Catalog
from understudy.aws.gateway import Gateway
from understudy.aws.own_calls import OwnCalls
from understudy.core.names import Place
from understudy.operations.services import Services
from understudy.system import RealClock, RealEntropy

KEYS = {"AKIDTEST": "a secret/with+odd=characters"}


def make_services(region: str = "us-east-1") -> Services:
    """Services for operations that touch no store."""
    absent: Any = None
    return Services(
        records=absent,
        buckets=absent,
        objects=absent,
        series=absent,
        logs=absent,
        stages=absent,
        evidence=absent,
        assignments=absent,
        outcomes=absent,
        clock=RealClock(),
        entropy=RealEntropy(),
        place=Place(region=region),
        endpoint_url="http://127.0.0.1:0",
        nudge=lambda: None,
    )


class Server:
    """A uvicorn in a thread."""

    def __init__(self, gateway: Any, lifespan: Any = "on") -> None:
        self.gateway = gateway
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(gateway, log_level="warning", lifespan=lifespan, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self._socket.close()
        assert not self._thread.is_alive()

    def client(self, service: str, *, secret: str = KEYS["AKIDTEST"], **config: Any) -> Any:
        region = config.pop("region", "us-east-1")
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=config.pop("key", "AKIDTEST"),
            aws_secret_access_key=secret,
            aws_session_token=config.pop("token", None),
            config=botocore.config.Config(retries={"total_max_attempts": 1}, **config),
        )


@pytest.fixture
def serve() -> Iterator[Any]:
    """Return a function that serves operations: ``serve({("sts", "Op"): function}, auth=...)``."""
    servers: list[Server] = []

    def start(
        operations: dict[tuple[str, str], Any],
        auth: Any = "sigv4",
        *,
        region: str = "us-east-1",
        **options: Any,
    ) -> Server:
        gateway = Gateway(make_services(region), operations, lambda: KEYS, auth, **options)
        server = Server(gateway)
        server.start()
        servers.append(server)
        return server

    yield start
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)


@pytest.fixture
def serve_own() -> Iterator[Any]:
    """Return a function that serves own calls, and gives what a client needs: ``serve_own(calls, auth)``."""
    servers: list[Server] = []

    def start(calls: Any, auth: str = "sigv4") -> understudy.sdk.servers.Server:
        server = Server(OwnCalls(make_services(), calls, lambda: KEYS, auth, RealClock()), lifespan="off")
        server.start()
        servers.append(server)
        return understudy.sdk.servers.Server(server.url, "AKIDTEST", KEYS["AKIDTEST"], "us-east-1")

    yield start
    for server in servers:
        server.stop()
        server.gateway.close()


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog()

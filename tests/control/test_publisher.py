"""The control channel, with routers played over its real socket."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.control.publisher import Publisher, read_table, write_table
from understudy.core.routing import (
    CaptureRoute,
    EndpointRoute,
    InstanceRoute,
    RoutingTable,
    ShadowRoute,
    VariantRoute,
)


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.005)


class PlayedRouter:
    """A router's end of the channel."""

    def __init__(self, run_dir: Path, number: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(run_dir / "control.sock"))
        self.send({"type": "hello", "router": number, "boot": "b", "pid": 4_000 + number, "version": 0})

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self.socket.sendall(struct.pack("!I", len(body)) + body)

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("!I", self._exactly(4))
        message: dict[str, Any] = json.loads(self._exactly(length))
        return message

    def _exactly(self, length: int) -> bytes:
        parts = b""
        while len(parts) < length:
            part = self.socket.recv(length - len(parts))
            assert part, "the channel was closed"
            parts += part
        return parts

    def table(self, version: int) -> dict[str, Any]:
        """Read until the table of that version or a newer one."""
        while True:
            message = self.receive()
            if message["type"] == "table" and message["table"]["version"] >= version:
                table: dict[str, Any] = message["table"]
                return table


def route(name: str, *instances: str, weight: float = 1.0) -> EndpointRoute:
    routes = tuple(InstanceRoute(instance, f"w/{instance}.sock") for instance in instances)
    return EndpointRoute(name, (VariantRoute("v", weight, "c", routes),))


@pytest.fixture
def recorded() -> list[tuple[str, int, list[dict[str, Any]]]]:
    return []


@pytest.fixture
def publisher(tmp_path: Path, recorded: list[tuple[str, int, list[dict[str, Any]]]]) -> Iterator[Publisher]:
    publisher = Publisher(
        tmp_path,
        2,
        on_metrics=lambda boot, sequence, items: recorded.append((boot, sequence, items)),
        on_change=lambda: None,
        on_suspect=lambda *_: None,
    )
    yield publisher
    publisher.close()


def test_a_route_is_acknowledged_when_every_router_has_it(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish({"e": route("e", "i1")})
    first, second = PlayedRouter(tmp_path, 0), PlayedRouter(tmp_path, 1)
    version = first.table(1)["version"]
    assert second.table(1)["endpoints"][0]["variants"][0]["instances"] == [
        {"instance_id": "i1", "address": "w/i1.sock"}
    ]
    first.send({"type": "ack", "version": version, "draining": []})
    until(lambda: publisher.in_use("i1", "e"))
    assert not publisher.acknowledged("e", route("e", "i1"))
    second.send({"type": "ack", "version": version, "draining": []})
    until(lambda: publisher.acknowledged("e", route("e", "i1")))
    assert not publisher.acknowledged("e", route("e", "i1", weight=0.0))
    assert publisher.routers() == [(0, 4_000), (1, 4_001)]
    # A change of another endpoint does not take the acknowledgement away.
    publisher.publish({"e": route("e", "i1"), "other": route("other", "i9")})
    assert publisher.acknowledged("e", route("e", "i1"))
    assert not publisher.acknowledged("other", route("other", "i9"))
    # A router that went away must come back and acknowledge.
    second.socket.close()
    until(lambda: not publisher.acknowledged("e", route("e", "i1")))


def test_an_instance_is_in_use_until_no_router_waits_for_it(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish({"e": route("e", "i1")})
    routers = [PlayedRouter(tmp_path, 0), PlayedRouter(tmp_path, 1)]
    versions = [router.table(1)["version"] for router in routers]
    for router in routers:
        router.send({"type": "ack", "version": versions[0], "draining": []})
    until(lambda: publisher.acknowledged("e", route("e", "i1")))
    publisher.publish({"e": route("e", "i2")})
    assert publisher.in_use("i1", "e"), "nobody has the new table yet"
    newer = versions[0] + 1
    routers[0].send({"type": "ack", "version": newer, "draining": []})
    routers[1].send({"type": "ack", "version": newer, "draining": ["i1"]})
    until(lambda: publisher.acknowledged("e", route("e", "i2")))
    assert publisher.in_use("i1", "e"), "router 1 waits for an answer"
    routers[1].send({"type": "drained", "version": newer, "draining": []})
    until(lambda: not publisher.in_use("i1", "e"))
    assert publisher.in_use("i2", "e")


def shadowed(name: str, *instances: str) -> EndpointRoute:
    """A route with a shadow on these instances, and capture."""
    routes = tuple(InstanceRoute(instance, f"w/{instance}.sock") for instance in instances)
    return replace(
        route(name, "i1"),
        shadows=(ShadowRoute("s", 0.25, "c", routes),),
        capture=CaptureRoute("s3://b/p", 7.0, True, False, ("text/csv",), (), durable=True),
    )


def test_shadows_and_capture_travel_and_are_kept(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish({"e": shadowed("e", "i2")})
    (sent,) = PlayedRouter(tmp_path, 0).table(1)["endpoints"]
    assert sent["shadows"] == [
        {
            "name": "s",
            "share": 0.25,
            "config_name": "c",
            "instances": [{"instance_id": "i2", "address": "w/i2.sock"}],
            "timeout_s": 60.0,
            "containers": ["primary"],
        }
    ]
    assert sent["capture"] == {
        "destination": "s3://b/p",
        "sampling_percent": 7.0,
        "inputs": True,
        "outputs": False,
        "csv_types": ["text/csv"],
        "json_types": [],
        "durable": True,
    }
    kept = read_table(tmp_path / "table.json")
    assert kept is not None and kept.endpoints == {"e": shadowed("e", "i2")}


def test_a_shadows_instance_is_in_use_like_any_other(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish({"e": shadowed("e", "i2")})
    routers = [PlayedRouter(tmp_path, 0), PlayedRouter(tmp_path, 1)]
    for router in routers:
        router.send({"type": "ack", "version": router.table(1)["version"], "draining": []})
    until(lambda: publisher.acknowledged("e", shadowed("e", "i2")))
    assert publisher.in_use("i2", "e")
    publisher.publish({"e": shadowed("e")})
    for router in routers:
        router.send({"type": "ack", "version": router.table(2)["version"], "draining": []})
    until(lambda: not publisher.in_use("i2", "e"))


def test_a_table_of_before_shadows_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", RoutingTable(3, {"e": route("e", "i1")}))
    document = json.loads((tmp_path / "table.json").read_text())
    for endpoint in document["table"]["endpoints"]:
        del endpoint["shadows"], endpoint["capture"]
    canonical = json.dumps(document["table"], separators=(",", ":"), sort_keys=True).encode()
    document["sha256"] = hashlib.sha256(canonical).hexdigest()
    (tmp_path / "table.json").write_text(json.dumps(document))
    assert read_table(tmp_path / "table.json") == RoutingTable(3, {"e": route("e", "i1")})


def test_metrics_are_acknowledged_after_they_are_recorded(
    publisher: Publisher, tmp_path: Path, recorded: list[tuple[str, int, list[dict[str, Any]]]]
) -> None:
    router = PlayedRouter(tmp_path, 0)
    assert router.receive()["type"] == "table"
    router.send({"type": "metrics", "boot": "b", "seq": 7, "data": [{"endpoint": "e"}]})
    assert router.receive() == {"type": "metrics_ack", "seq": 7}
    assert recorded == [("b", 7, [{"endpoint": "e"}])]


def test_an_older_table_never_follows_a_newer_one(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table is published between a router's hello and the answer to it: the newer one comes last."""
    held, go_on = threading.Event(), threading.Event()
    send = publisher._send

    def hold_the_first(*arguments: Any) -> None:
        if not held.is_set():
            held.set()
            assert go_on.wait(10)
        send(*arguments)

    publisher.publish({"e": route("e", "i1")})
    monkeypatch.setattr(publisher, "_send", hold_the_first)
    router = PlayedRouter(tmp_path, 0)
    assert held.wait(10)
    publisher.publish({"e": route("e", "i2")})
    go_on.set()
    newest = publisher.table.version
    assert [router.receive()["table"]["version"] for _ in range(2)] == [newest, newest]


def test_silence_is_told_with_its_length(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    publisher = Publisher(
        tmp_path,
        1,
        on_metrics=lambda *_: None,
        on_change=lambda: None,
        on_suspect=lambda instance_id, silent_s: told.append((instance_id, silent_s)),
    )
    try:
        router = PlayedRouter(tmp_path, 0)
        router.send({"type": "suspect", "instance_id": "i1", "reason": "connection lost"})
        router.send({"type": "suspect", "instance_id": "i1", "reason": "silent", "silent_s": 66.5})
        until(lambda: told == [("i1", 0.0), ("i1", 66.5)])
    finally:
        publisher.close()


def test_an_unchanged_table_is_not_sent_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish({"e": route("e", "i1")})
    before = read_table(tmp_path / "table.json")
    publisher.publish({"e": route("e", "i1")})
    assert read_table(tmp_path / "table.json") == before


def test_a_new_controller_asks_every_router_again(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", RoutingTable(41, {"e": route("e", "i1")}))
    publisher = Publisher(
        tmp_path, 1, on_metrics=lambda *_: None, on_change=lambda: None, on_suspect=lambda *_: None
    )
    try:
        assert not publisher.acknowledged("e", route("e", "i1"))
        assert publisher.in_use("i1", "e")
        publisher.publish({"e": route("e", "i1")})
        router = PlayedRouter(tmp_path, 0)
        assert router.table(42)["version"] == 42
    finally:
        publisher.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": "0", "table": {"version": 1, "endpoints": []}}'])
def test_a_damaged_table_is_not_served(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    assert read_table(tmp_path / "table.json") is None


def test_garbage_on_the_channel_drops_only_that_link(publisher: Publisher, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bad:
        bad.connect(str(tmp_path / "control.sock"))
        bad.sendall(b"\xff" * 64)
        bad.settimeout(10)
        with contextlib.suppress(ConnectionResetError):  # closed with garbage unread: as good as an end
            assert bad.recv(1) == b""
    good = PlayedRouter(tmp_path, 0)
    assert good.receive()["type"] == "table"

"""The control channel: hands routing tables to the routers and takes their metrics.

Owns the published :class:`RoutingTable`, who has acknowledged which version, and which instances
still have requests in flight somewhere.  Refuses to call a route acknowledged while any router of
the server is missing.  Main class: :class:`Publisher`.

Frames: ``u32`` big-endian length, then UTF-8 JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from understudy.core.routing import EndpointRoute, RoutingTable

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 * 1024 * 1024
SEND_TIMEOUT_S = 5.0  # a router that takes longer is hung; it reconnects or is restarted
_LENGTH = struct.Struct("!I")

Stamp = Callable[[Mapping[str, EndpointRoute]], dict[str, EndpointRoute]]
MetricsSink = Callable[[str, int, list[dict[str, Any]]], None]


@dataclass
class RouterLink:
    """One connected router."""

    connection: socket.socket
    number: int = -1
    pid: int = 0
    acknowledged: int = -1
    draining: frozenset[str] = field(default_factory=frozenset)
    sending: threading.Lock = field(default_factory=threading.Lock)


class Publisher:
    """Serves the control channel from threads; every public method may be called from any thread.

    Args:
        run_dir: Holds ``control.sock`` and ``table.json``.
        router_count: How many routers must acknowledge.
        on_metrics: Takes (boot id, sequence, items); what it returned from is acknowledged.
        on_change: Called after every acknowledgement and every drained instance.
        on_suspect: Called with an instance id that a router could not reach, and for how many seconds it has
            been silent though connected.
        stamp: Gives routes their stages before they are stored (:meth:`control.evidence.StageBook.stamp`);
            None: they stay as they are.
    """

    def __init__(
        self,
        run_dir: Path,
        router_count: int,
        *,
        on_metrics: MetricsSink,
        on_change: Callable[[], None],
        on_suspect: Callable[[str, float], None],
        stamp: Stamp | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._router_count = router_count
        self._on_metrics = on_metrics
        self._on_change = on_change
        self._on_suspect = on_suspect
        self._stamp = stamp or dict
        self._lock = threading.Lock()
        self._links: list[RouterLink] = []
        self._table = read_table(run_dir / "table.json") or RoutingTable()
        # After a restart nobody has told us yet what they serve: ask all of them again.
        self._wished: dict[str, EndpointRoute] = {}  # as the table's, without their stages
        self._changed_in: dict[str, int] = {}
        self._floor = self._table.version + 1
        self._listener = _listen(run_dir / "control.sock")
        self._closed = False
        threading.Thread(target=self._accept, name="control-channel", daemon=True).start()

    # --- what control asks --------------------------------------------------------------------------

    def publish(
        self, endpoints: dict[str, EndpointRoute], on_stored: Callable[[], None] = lambda: None
    ) -> None:
        """Make these the routes, if they are not: store the table, then send it to every router.

        Args:
            on_stored: Called between the two.
        """
        with self._lock:
            before = self._table
            if endpoints == self._wished and before.version >= self._floor:
                return
            stamped = self._stamp(endpoints)
            version = max(before.version + 1, self._floor)
            for name in stamped.keys() | before.endpoints.keys():
                if stamped.get(name) != before.endpoints.get(name) or before.version < self._floor:
                    self._changed_in[name] = version
            table = RoutingTable(version=version, endpoints=stamped)
            write_table(self._run_dir / "table.json", table)
            self._table, self._wished = table, dict(endpoints)
            links = list(self._links)
        on_stored()
        for link in links:
            self._send_table(link)

    def acknowledged(self, endpoint_name: str, route: EndpointRoute | None) -> bool:
        """Tell whether every router of the server serves exactly this route."""
        with self._lock:
            if self._table.version < self._floor or self._wished.get(endpoint_name) != route:
                return False
            needed = self._changed_in.get(endpoint_name, 0)
            current = {link.number for link in self._links if link.acknowledged >= needed}
            return current.issuperset(range(self._router_count))

    def in_use(self, instance_id: str, endpoint_name: str) -> bool:
        """Tell whether some router may hand the instance a request, or waits for its answer."""
        with self._lock:
            route = self._table.endpoints.get(endpoint_name)
            if route is not None and any(one.instance_id == instance_id for one in route.instances()):
                return True
            needed = self._changed_in.get(endpoint_name, 0)
            if self._table.version < self._floor:
                return True
            return any(link.acknowledged < needed or instance_id in link.draining for link in self._links)

    def routers(self) -> list[tuple[int, int]]:
        """Return (number, pid) of the connected routers."""
        with self._lock:
            return sorted((link.number, link.pid) for link in self._links if link.number >= 0)

    def close(self) -> None:
        """Stop serving; routers go on with what they have."""
        self._closed = True
        self._listener.close()
        with self._lock:
            for link in self._links:
                link.connection.close()

    # --- the channel --------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            link = RouterLink(connection)
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_TIMEOUT_S), 0)
            )
            threading.Thread(target=self._serve, args=(link,), name="control-link", daemon=True).start()

    def _serve(self, link: RouterLink) -> None:
        try:
            while (message := _receive(link.connection)) is not None:
                self._handle(link, message)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self._closed:
                log.warning("control channel: router %s dropped: %s", link.number, error)
        finally:
            with self._lock:
                if link in self._links:
                    self._links.remove(link)
            link.connection.close()
            self._on_change()

    def _handle(self, link: RouterLink, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "hello":
            with self._lock:
                link.number, link.pid = int(message["router"]), int(message["pid"])
                self._links = [other for other in self._links if other.number != link.number] + [link]
            self._send_table(link)
        elif kind in ("ack", "drained"):
            with self._lock:
                link.acknowledged = max(link.acknowledged, int(message["version"]))
                link.draining = frozenset(message["draining"])
            self._on_change()
        elif kind == "metrics":
            self._on_metrics(message["boot"], int(message["seq"]), message["data"])
            self._send(link, lambda: _frame({"type": "metrics_ack", "seq": message["seq"]}))
        elif kind == "suspect":
            self._on_suspect(message["instance_id"], float(message.get("silent_s", 0.0)))
        else:
            log.warning("control channel: unknown message %r", kind)

    def _send_table(self, link: RouterLink) -> None:
        # Read under the sender's lock: an older table must never follow a newer one.
        self._send(link, lambda: _frame({"type": "table", "table": table_json(self.table)}))

    @property
    def table(self) -> RoutingTable:
        """What is published now."""
        with self._lock:
            return self._table

    def _send(self, link: RouterLink, frame: Callable[[], bytes]) -> None:
        try:
            with link.sending:
                link.connection.sendall(frame())
        except OSError as error:
            log.warning("control channel: router %s does not take its table: %s", link.number, error)
            # Its reader thread sees the end and forgets the link; the router connects again.
            try:
                link.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("control channel: link of router %s was closed already", link.number)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # A Unix socket's path has room for 107 bytes only; a data directory may be deeper.
        listener.bind(f"/proc/self/fd/{directory}/{path.name}" if len(str(path)) > 100 else str(path))
    finally:
        os.close(directory)
    listener.listen(64)
    return listener


def _frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    header = _exactly(connection, _LENGTH.size)
    if header is None:
        return None
    (length,) = _LENGTH.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    body = _exactly(connection, length)
    if body is None:
        return None
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a frame that is no object")
    return message


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    parts, left = [], length
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


# --- the table on disk ------------------------------------------------------------------------------


def table_json(table: RoutingTable) -> dict[str, Any]:
    """Render a table for the channel and for disk."""
    return {"version": table.version, "endpoints": [asdict(route) for route in table.endpoints.values()]}


def write_table(path: Path, table: RoutingTable) -> None:
    """Store the table atomically with a checksum: routers that start without a controller serve from it."""
    rendered = table_json(table)
    canonical = json.dumps(rendered, separators=(",", ":"), sort_keys=True).encode()
    temporary = path.with_suffix(".tmp")
    document = {"sha256": hashlib.sha256(canonical).hexdigest(), "table": rendered}
    temporary.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))
    temporary.replace(path)


def read_table(path: Path) -> RoutingTable | None:
    """Read the table of an earlier controller; None when there is none or its checksum is wrong."""
    try:
        document = json.loads(path.read_text())
        rendered = document["table"]
        canonical = json.dumps(rendered, separators=(",", ":"), sort_keys=True).encode()
        if hashlib.sha256(canonical).hexdigest() != document["sha256"]:
            log.warning("%s: the checksum is wrong; starting with an empty table", path)
            return None
        routes = msgspec.convert(rendered["endpoints"], list[EndpointRoute])
        return RoutingTable(int(rendered["version"]), {route.name: route for route in routes})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        log.warning("%s: %s; starting with an empty table", path, error)
        return None

"""The router's end of the control channel: takes tables, tells what is acknowledged, drained and counted.

Owns :class:`ControlLink`.  Refuses to stop anything when the controller is gone: it connects again, and what
was not acknowledged is sent again under its own sequence.

Frames: ``u32`` big-endian length, then UTF-8 JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from understudy.dataplane.accounting import Ledger
from understudy.dataplane.table import BadTable, Switchboard, parse_table

log = logging.getLogger(__name__)

RECONNECT_S = 0.2
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_BACKLOG_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class ControlLink(asyncio.Protocol):
    """The channel to the controller.

    Args:
        boot: Unique text of this run of the router.
        wall_s: The scaled clock's Unix time.
    """

    def __init__(
        self,
        number: int,
        boot: str,
        path: Path,
        *,
        board: Switchboard,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        wall_s: Callable[[], float],
    ) -> None:
        self._number = number
        self._path = path
        self._board = board
        self._ledger = ledger
        self._loop = loop
        self._wall_s = wall_s
        self._boot = boot
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._acknowledged = -1
        self._draining: list[str] = []
        self._sent_sequence = 0
        self._task: asyncio.Task[None] | None = None
        self._suspects: dict[str, tuple[str, float]] = {}
        self._closed = False

    # --- the connection ----------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect; comes back to itself until closed."""
        if not self._closed:
            self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(5.0):
                await self._loop.create_unix_connection(lambda: self, str(self._path))
        except (OSError, TimeoutError):
            self._loop.call_later(RECONNECT_S, self.connect)
        finally:
            self._task = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclasses
        self._transport = stream
        self._buffer.clear()
        self._acknowledged = -1  # a new controller knows nothing of us
        self._draining = []
        self._sent_sequence = 0
        self._send(
            {
                "type": "hello",
                "router": self._number,
                "boot": self._boot,
                "pid": os.getpid(),
                "version": self._board.table.version,
            }
        )
        suspects, self._suspects = self._suspects, {}
        for instance_id, (reason, silent_s) in suspects.items():
            self.suspect(instance_id, reason, silent_s)
        self.send_metrics()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._closed:
            self._loop.call_later(RECONNECT_S, self.connect)

    def close(self) -> None:
        """Let go of the channel."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.close()

    @property
    def is_connected(self) -> bool:
        """Whether a controller listens."""
        return self._transport is not None

    # --- what comes --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                self._drop(f"a frame of {length} bytes")
                return
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                self._take(json.loads(body))
            except (ValueError, KeyError, TypeError) as error:
                self._drop(str(error))
                return

    def _drop(self, reason: str) -> None:
        log.error("control channel: %s; connecting again", reason)
        if self._transport is not None:
            self._transport.abort()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "table":
            try:
                table = parse_table(message["table"])
            except BadTable as error:
                # Serving on from the last good table is better than from none; the missing ack tells.
                log.error("control channel: %s", error)
                return
            self._board.swap(table)
            self._acknowledged = -1
            self.routes_changed()
        elif kind == "metrics_ack":
            self._ledger.acknowledge(int(message["seq"]))
        else:
            log.warning("control channel: unknown message %r", kind)

    # --- what goes ---------------------------------------------------------------------------------

    def routes_changed(self) -> None:
        """Acknowledge the table once its new instances are connected or given up; tell who is drained."""
        board = self._board
        if self._transport is None or not board.known or not board.is_settled:
            return
        version = board.table.version
        draining = board.draining()
        if version != self._acknowledged:
            self._acknowledged = version
            self._send({"type": "ack", "version": version, "draining": draining})
        elif draining != self._draining:
            self._send({"type": "drained", "version": version, "draining": draining})
        self._draining = draining

    def suspect(self, instance_id: str, reason: str, silent_s: float) -> None:
        """Tell that an instance can't be reached; kept for later when no controller listens.

        Args:
            silent_s: How long a connected worker has said nothing; 0.0 when there is no connection.
        """
        if self._transport is None:
            if len(self._suspects) < 1024:
                self._suspects[instance_id] = (reason, silent_s)
            return
        self._send(
            {"type": "suspect", "instance_id": instance_id, "reason": reason, "silent_s": round(silent_s, 1)}
        )

    def send_metrics(self) -> None:
        """Send the batch that is due, unless it is under way on this connection."""
        if self._transport is None:
            return
        batch = self._ledger.next_batch(int(self._wall_s()))
        if batch is not None and batch["seq"] != self._sent_sequence:
            self._sent_sequence = batch["seq"]
            self._send({"type": "metrics", "boot": self._boot, **batch})

    def _send(self, message: dict[str, Any]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            transport.abort()  # a controller that does not read: nothing is lost, all is sent again
            return
        body = json.dumps(message, separators=(",", ":")).encode()
        transport.write(_LENGTH.pack(len(body)) + body)

"""One router process: reads its flags, serves until SIGTERM or the end of the lifeline.

Owns the loop, the listening socket's copy, the housekeeping tick and the orderly end.  Refuses to outlive its
supervisor.  Main function: :func:`main`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import setproctitle
import uvloop

from understudy.capture.assignments import FOLDER
from understudy.capture.spool import SpoolWriter
from understudy.dataplane import capturing
from understudy.dataplane.accounting import ASSIGNMENT, Ledger
from understudy.dataplane.connection import ClientConnection
from understudy.dataplane.control_link import ControlLink
from understudy.dataplane.dice import splitmix64
from understudy.dataplane.gate import BadCredentials, Gate
from understudy.dataplane.instances import PING_EVERY_S
from understudy.dataplane.journal import SUFFIX, Journal
from understudy.dataplane.router import MAX_CONNECTIONS, Router
from understudy.dataplane.table import load_table
from understudy.worker.process import keep_freed_memory, set_aside_what_lives_long, watch_lifeline

log = logging.getLogger(__name__)

TICK_S = 0.1
SWEEP_S = 1.0
CLOSE_SECOND_S = 0.25
DRAIN_S = 30.0
IDLE_GRACE_S = 0.5  # an idle client that sends just now still gets its answer, with Connection: close
SHADOW_GRACE_S = 1.0
SPOOL_GRACE_S = 2.0
CAPTURE_QUEUED_BYTES = 20 << 20
LOG_QUEUED_BYTES = 8 << 20
METRICS_GRACE_S = 2.0
FIRST_TABLE_S = 1.0
KEPT_BYTES = 64 * 1024 * 1024  # of freed memory: ten of the largest bodies


def main(argv: list[str], *, draw: Callable[[], float] | None = None) -> int:
    """Run one router.

    Args:
        draw: Uniform in [0, 1), for choosing variants; a generator seeded by the system when None.
    Returns:
        Exit code: 0 after SIGTERM or the supervisor's end, 2 when it can't start.
    """
    options = _parse(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"understudy router {options.router}: %(message)s"
    )
    setproctitle.setproctitle(f"understudy router {options.router}")
    os.chdir(options.run_dir)
    max_files = _raise_file_limit()
    keep_freed_memory(KEPT_BYTES)
    try:
        draw = draw or splitmix64(int.from_bytes(os.urandom(8), "big"))
        return uvloop.run(_Process(options, draw, max_files).run())
    except BadCredentials as error:
        log.error("%s", error)
        return 2


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m understudy.dataplane")
    parser.add_argument("--router", type=int, required=True, help="number of this router, from 0")
    parser.add_argument("--listen-fd", type=int, required=True, help="listening socket, the supervisor's")
    parser.add_argument("--lifeline-fd", type=int, required=True, help="pipe that ends with the supervisor")
    parser.add_argument("--run-dir", type=Path, required=True, help="sockets and table.json")
    parser.add_argument("--credentials", type=Path, required=True, help="credentials.json")
    parser.add_argument("--spool-dir", type=Path, help="where captured records go; without it none are kept")
    parser.add_argument("--auth", choices=("sigv4", "none"), default="sigv4")
    parser.add_argument("--time-anchor", type=float, default=0.0, help="Unix seconds")
    parser.add_argument("--time-scale", type=float, default=1.0)
    options = parser.parse_args(argv)
    options.credentials = options.credentials.absolute()
    if options.spool_dir is not None:
        options.spool_dir = options.spool_dir.absolute()
    return options


def _raise_file_limit() -> int:
    """Allow this process as many open files as it may have, and return how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a sandbox may forbid it: the soft limit then stands
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS * 2 if soft == resource.RLIM_INFINITY else soft


def max_connections(max_files: int) -> int:
    """Return how many callers may be connected, so that files are left for all else.

    >>> max_connections(1 << 20), max_connections(1024), max_connections(256)
    (8192, 768, 128)
    """
    return min(MAX_CONNECTIONS, max(max_files - 256, max_files // 2))


class _Process:
    def __init__(self, options: argparse.Namespace, draw: Callable[[], float], max_files: int) -> None:
        self._options = options
        self._draw = draw
        self._max_files = max_files
        self._wall_s = self._clock(options.time_anchor, options.time_scale)
        self._boot = os.urandom(8).hex()
        self._second = 0
        self._last_sweep_s = self._last_ping_s = self._last_close_s = time.monotonic()

    # The process is its own root: it wires the real clock, which rooms below it may not import.
    @staticmethod
    def _clock(anchor_s: float, scale: float) -> Callable[[], float]:
        """Return the server's clock; unscaled, it is the system's, which every captured request asks."""
        real_s = time.time  # noqa: TID251
        return real_s if scale == 1.0 else lambda: anchor_s + (real_s() - anchor_s) * scale

    async def run(self) -> int:
        options = self._options
        loop = self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._gate = Gate(options.credentials, signed=options.auth == "sigv4", now_s=time.time)  # noqa: TID251
        self._router = Router(
            gate=self._gate,
            draw=self._draw,
            loop=loop,
            controller_path=Path("controller.sock"),
            wall_s=self._wall_s,
            open_spool=None if options.spool_dir is None else self._open_spool,
            open_log=None if options.spool_dir is None else self._open_log,
            ledger=Ledger(self._open_journal(), self._wall_s),
            on_table_change=lambda: self._control.routes_changed(),
            on_suspect=lambda instance_id, reason, silent_s: self._control.suspect(
                instance_id, reason, silent_s
            ),
        )
        self._router.max_connections = max_connections(self._max_files)
        self._control = ControlLink(
            options.router,
            self._boot,
            Path("control.sock"),
            board=self._router.board,
            ledger=self._router.ledger,
            loop=loop,
            wall_s=self._wall_s,
        )
        self._second = int(self._wall_s())
        table = load_table(Path("table.json"))
        if table is not None:
            self._router.board.swap(table)
        elif Path("table.json").exists():
            log.error("table.json does not fit its checksum: waiting for the controller's table")
        self._control.connect()
        first_table_by_s = time.monotonic() + FIRST_TABLE_S
        # A caller in the backlog is better off waiting a moment than being told of an empty table.
        while not self._router.board.known and time.monotonic() < first_table_by_s:
            await asyncio.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        watch_lifeline(options.lifeline_fd)
        listener = socket.socket(fileno=os.dup(options.listen_fd))
        listener.setblocking(False)
        server = await loop.create_server(lambda: ClientConnection(self._router), sock=listener, backlog=4096)
        self._tick()
        set_aside_what_lives_long(50_000, 20, 50)
        await self._stop.wait()
        await self._end(server)
        return 0

    def _open_journal(self) -> Journal | None:
        """Have counts outlive this process; the controller hands in what a killed router leaves."""
        try:
            return Journal(Path("counts") / f"{self._options.router}-{self._boot}{SUFFIX}")
        except OSError as error:
            log.error("counts of the last second are lost if this router is killed: no journal: %s", error)
            return None

    def _open_spool(self) -> SpoolWriter:
        """Start keeping records: some endpoint captures."""
        return self._spool(self._options.spool_dir, capturing.KIND, CAPTURE_QUEUED_BYTES)

    def _open_log(self) -> SpoolWriter:
        """Start keeping assignments: some request is logged."""
        return self._spool(self._options.spool_dir / FOLDER, ASSIGNMENT, LOG_QUEUED_BYTES)

    def _spool(self, directory: Path, kind: str, max_queued_bytes: int) -> SpoolWriter:
        options, loop, ledger = self._options, self._loop, self._router.ledger
        loop_thread = threading.get_ident()

        def shed(endpoint: str, variant: str, outcome: str, count: int) -> None:
            if threading.get_ident() == loop_thread:
                ledger.note(kind, endpoint, variant, outcome, count)
            else:
                loop.call_soon_threadsafe(ledger.note, kind, endpoint, variant, outcome, count)

        return SpoolWriter(
            directory,
            options.router,
            self._boot,
            on_shed=shed,
            wall_s=self._wall_s,
            max_queued_bytes=max_queued_bytes,
        )

    # --- housekeeping ------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        now_s = time.monotonic()
        router = self._router
        router.end_overdue(time.monotonic_ns())
        second = int(self._wall_s())
        router.ledger.tick(second)
        if second != self._second and now_s - self._last_close_s >= CLOSE_SECOND_S:
            router.ledger.close_second(self._second)
            self._second = second
            self._last_close_s = now_s
            self._control.send_metrics()  # at once: what is not sent dies with this process
        if now_s - self._last_ping_s >= PING_EVERY_S:
            self._last_ping_s = now_s
            router.ping_links()
        if now_s - self._last_sweep_s >= SWEEP_S:
            self._last_sweep_s = now_s
            router.sweep(now_s)
            self._control.send_metrics()
            self._refresh_credentials()

    def _refresh_credentials(self) -> None:
        try:
            if self._gate.refresh():
                log.info("credentials read again")
        except BadCredentials as error:
            log.error("keeping the credentials in use: %s", error)

    # --- the end -----------------------------------------------------------------------------------

    async def _end(self, server: asyncio.Server) -> None:
        """Finish what is in work, close idle connections, keep the records, hand over the last counts."""
        router = self._router
        router.stop_keeping_alive()
        server.close()
        started_s = time.monotonic()
        while router.connections and (past_s := time.monotonic() - started_s) < DRAIN_S:
            if past_s >= IDLE_GRACE_S:
                for connection in list(router.connections):
                    connection.close_if_done()
            await asyncio.sleep(0.02)
        for connection in list(router.connections):
            connection.abort()
        await self._end_copies()
        router.ledger.close_second(int(self._wall_s()))
        deadline_s = time.monotonic() + METRICS_GRACE_S
        self._control.send_metrics()
        while not router.ledger.is_empty and self._control.is_connected and time.monotonic() < deadline_s:
            self._control.send_metrics()
            await asyncio.sleep(0.01)
        self._control.close()
        for link in router.board.all_links():
            link.close()
        await asyncio.sleep(0)

    async def _end_copies(self) -> None:
        """Wait a little for shadows, then for the records of what was answered."""
        router = self._router
        await asyncio.sleep(0)  # what this turn has taken in is on its way
        links = router.board.all_links()
        deadline_s = time.monotonic() + SHADOW_GRACE_S
        while router.tee.outstanding(links) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        router.tee.abandon(links)
        await asyncio.sleep(0)
        router.tap.pack()
        await self._loop.run_in_executor(None, router.tap.close, SPOOL_GRACE_S)
        router.tap.pack()  # what came meanwhile is shed, and counted
        await self._loop.run_in_executor(None, router.assignments.close, SPOOL_GRACE_S)
        await asyncio.sleep(0)  # what its thread has just told is counted

"""A real router process between fake workers and a fake controller that speak the real protocols."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.worker import wire

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0


def eventually(check: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
    """Poll until ``check`` is true, and return its value."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {deadline_s} s: {what or check}")
        time.sleep(0.01)


class FakeWorker:
    """A worker by ``wire``; ``answer`` gives (status, head, body), frames, "die" or None for silence."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.address = f"w/{name}.sock"
        self.requests: list[wire.Request] = []
        self.frames: list[int] = []  # requests per frame
        self.cancelled: list[int] = []
        self.flow: list[int] = []  # PAUSE and RESUME, as they came
        self.writers: list[asyncio.StreamWriter] = []
        self.answers_pings = True
        self.delay_s = 0.0
        self.answer: Callable[[wire.Request], Any] = self.echo
        self.server: asyncio.AbstractServer | None = None

    def echo(self, request: wire.Request) -> Any:
        return 200, f"text/csv\0\0{self.name}".encode(), request.body

    def start(self) -> None:
        self.rig.call(self._start())

    async def _start(self) -> None:
        path = self.rig.run_dir / self.address
        path.unlink(missing_ok=True)
        self.server = await asyncio.start_unix_server(self._serve, path)

    def kill(self) -> None:
        """End as ``kill -9`` would: the listening socket and every connection at once."""
        self.rig.call(self._kill())

    async def _kill(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
            (self.rig.run_dir / self.address).unlink(missing_ok=True)
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        self.writers = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            await self._read(reader, writer)
        except ConnectionError:
            pass  # killed, or the router is gone
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = wire.FrameSplitter()
        while data := await reader.read(1 << 18):
            for kind, payload in splitter.feed(data):
                if kind == wire.PING and self.answers_pings:
                    writer.write(wire.PONG_FRAME)
                elif kind == wire.CANCEL:
                    self.cancelled.append(wire.decode_request_id(payload))
                elif kind in (wire.PAUSE, wire.RESUME):
                    assert wire.decode_request_id(payload) in {one.request_id for one in self.requests}
                    self.flow.append(kind)
                elif kind == wire.REQUESTS:
                    requests = wire.decode_requests(payload)
                    self.requests += requests
                    self.frames.append(len(requests))
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    await self._answer(requests, writer)

    async def _answer(self, requests: list[wire.Request], writer: asyncio.StreamWriter) -> None:
        responses = []
        for request in requests:
            answer = self.answer(request)
            if isinstance(answer, tuple):
                responses.append((request.request_id, *answer))
            elif isinstance(answer, list):
                for frame in answer:
                    writer.write(frame)
            elif answer == "die":
                await self._kill()
                return
        if responses:
            writer.write(wire.encode_responses(responses))


class FakeController:
    """The control channel and an HTTP handler on ``controller.sock``."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.messages: list[dict[str, Any]] = []
        self.recorded: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self.acks_metrics = True
        self.writers: list[asyncio.StreamWriter] = []
        self.servers: list[asyncio.AbstractServer] = []
        self.table: dict[str, Any] | None = None
        self.http: Callable[..., Coroutine[Any, Any, None]] = self.plain_http
        self.http_requests: list[bytes] = []

    def start(self) -> None:
        self.rig.call(self._start())

    async def _start(self) -> None:
        for name in ("control.sock", "controller.sock"):
            (self.rig.run_dir / name).unlink(missing_ok=True)
        self.servers = [
            await asyncio.start_unix_server(self._control, self.rig.run_dir / "control.sock"),
            await asyncio.start_unix_server(self._http, self.rig.run_dir / "controller.sock"),
        ]

    def stop(self) -> None:
        self.rig.call(self._stop())

    async def _stop(self) -> None:
        for server in self.servers:
            server.close()
        self.servers = []
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        self.writers = []

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                message = json.loads(await reader.readexactly(length))
                self.messages.append(message)
                if message["type"] == "hello" and self.table is not None:
                    self.send(writer, {"type": "table", "table": self.table})
                if message["type"] == "metrics":
                    self.recorded[message["boot"], message["seq"]] = message["data"]
                    if self.acks_metrics:
                        self.send(writer, {"type": "metrics_ack", "seq": message["seq"]})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the router is gone
        finally:
            writer.transport.abort()
            if writer in self.writers:
                self.writers.remove(writer)

    @staticmethod
    def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        writer.write(struct.pack(">I", len(body)) + body)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.http_requests.append(head)
            await self.http(head, reader, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the router broke off
        finally:
            writer.close()

    async def plain_http(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
        if length:
            await reader.readexactly(int(length[0].partition(b": ")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\ncontroller")

    def publish(self, table: dict[str, Any]) -> None:
        async def push() -> None:
            self.table = table
            for writer in self.writers:
                self.send(writer, {"type": "table", "table": table})

        self.rig.call(push())

    def acked(self, version: int) -> dict[str, Any]:
        """Wait for the router's ack of a version."""
        return eventually(
            lambda: next(
                (m for m in list(self.messages) if m["type"] == "ack" and m["version"] == version), None
            ),
            f"ack of version {version}: {self.messages}",
        )

    def items(self) -> list[dict[str, Any]]:
        return [item for data in list(self.recorded.values()) for item in data]

    def total(self, name: str, **where: str) -> float:
        return sum(
            item[name]
            for item in self.items()
            if name in item and all(item[key] == value for key, value in where.items())
        )

    def refused(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for item in self.items():
            for code, count in item.get("refused", {}).items():
                counts[code] = counts.get(code, 0) + count
        return counts


class Rig:
    """Everything around one router."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        (run_dir / "w").mkdir(parents=True)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.workers: dict[str, FakeWorker] = {}
        self.controller = FakeController(self)
        self.credentials = run_dir / "credentials.json"
        self.credentials.write_text(
            json.dumps(
                {
                    "access_key_id": "AKIATEST",
                    "secret_access_key": "secret",
                    "region": "us-west-2",
                    "account_id": "123456789012",
                }
            )
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.lifeline_read, self.lifeline_write = os.pipe()
        self.process: subprocess.Popen[bytes] | None = None
        self.version = 0
        self.closed_with: list[Any] = []  # boto3 clients

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def worker(self, name: str) -> FakeWorker:
        worker = self.workers[name] = FakeWorker(self, name)
        worker.start()
        return worker

    def table(
        self, endpoints: dict[str, dict[str, tuple[float, list[str]]]], timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Render a table: endpoint -> variant -> (weight, names of workers)."""
        self.version += 1
        return {
            "version": self.version,
            "endpoints": [
                {
                    "name": endpoint,
                    "variants": [
                        {
                            "name": variant,
                            "weight": weight,
                            "config_name": f"{endpoint}-config",
                            "timeout_s": timeout_s,
                            "containers": ["primary"],
                            "instances": [
                                {
                                    "instance_id": f"{endpoint}/{variant}/f1/{name}",
                                    "address": f"w/{name}.sock",
                                }
                                for name in names
                            ],
                        }
                        for variant, (weight, names) in variants.items()
                    ],
                }
                for endpoint, variants in endpoints.items()
            ],
        }

    def route(
        self, endpoints: dict[str, dict[str, tuple[float, list[str]]]], timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Publish a table and wait for its ack."""
        table = self.table(endpoints, timeout_s)
        self.controller.publish(table)
        return self.controller.acked(table["version"])

    def store_table(self, table: dict[str, Any]) -> None:
        canonical = json.dumps(table, separators=(",", ":"), sort_keys=True).encode()
        document = {"sha256": hashlib.sha256(canonical).hexdigest(), "table": table}
        (self.run_dir / "table.json").write_text(json.dumps(document))

    def start_router(
        self,
        *,
        auth: str = "none",
        extra: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "understudy.dataplane"),
    ) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(*program, "--router", "0"),
                *("--listen-fd", str(self.listener.fileno()), "--lifeline-fd", str(self.lifeline_read)),
                *("--run-dir", str(self.run_dir), "--credentials", str(self.credentials)),
                *("--auth", auth, *extra),
            ],
            cwd=self.run_dir,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            pass_fds=(self.listener.fileno(), self.lifeline_read),
        )

    def stop_router(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def invoke(self, body: bytes = b"1", endpoint: str = "e", headers: bytes = b"") -> Answer:
        with self.connect() as connection:
            connection.sendall(request(body, endpoint, headers))
            return read_answer(connection.makefile("rb"))

    async def _settle(self) -> None:
        """Let aborted connections end and cancel what still runs: nothing is left to the collector."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for client in self.closed_with:
            client.close()
        self.controller.stop()
        for worker in self.workers.values():
            worker.kill()
        self.call(self._settle())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.listener.close()
        os.close(self.lifeline_read)
        if self.lifeline_write >= 0:
            os.close(self.lifeline_write)


def request(body: bytes = b"1", endpoint: str = "e", headers: bytes = b"") -> bytes:
    return (
        b"POST /endpoints/%b/invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (endpoint.encode(), headers, len(body), body)
    )


class Answer:
    """One HTTP answer, read whole."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


def read_answer(file: Any) -> Answer:
    line = file.readline()
    if not line:
        raise ConnectionError("closed without an answer")
    status = int(line.split()[1])
    headers: dict[str, str] = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if status == 100:
        return read_answer(file)
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(file.readline(), 16):
            pieces.append(file.read(size))
            assert file.read(2) == b"\r\n"
        body = b"".join(pieces)
        assert file.readline() == b"\r\n"
    elif "content-length" in headers:
        body = file.read(int(headers["content-length"]))
    else:
        body = file.read()
    return Answer(status, headers, body)


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A controller that listens; start workers and the router as the test wants them."""
    made = Rig(tmp_path_factory.mktemp("r") / "run")
    made.controller.start()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def served(rig: Rig) -> Rig:
    """One endpoint ``e``, one variant ``v``, one worker ``a``, no authentication."""
    rig.worker("a")
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a"])}})
    rig.start_router()
    rig.controller.acked(1)
    return rig


@pytest.fixture(name="read_answer")
def answer_reader() -> Callable[[Any], Answer]:
    """The reader of one HTTP answer from a file of a socket."""
    return read_answer

"""A tiny HTTP server to aim the load generator at, with answers and faults to choose."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # bench/ lies beside src/, not in the package

Answer = Callable[[bytes], bytes | None]


class TinyServer:
    """Answers every POST by ``answer(body)``: bytes to write as they stand, or None to hang up."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: reply(body)
        self.delay_s = 0.0
        self.requests: list[bytes] = []
        self.heads: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.requests.append(body)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                answer = self.answer(body)
                if answer is None:
                    return
                # In two pieces: the generator must not depend on one.
                writer.write(answer[:25])
                await writer.drain()
                writer.write(answer[25:])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went
        finally:
            writer.close()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(body: bytes, *, status: str = "200 OK", more: str = "") -> bytes:
    """Render an answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@pytest.fixture
def tiny() -> Iterator[TinyServer]:
    server = TinyServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def render() -> Callable[..., bytes]:
    """``reply`` for tests, which can't import this file."""
    return reply

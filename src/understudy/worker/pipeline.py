"""Several containers in a row: a conductor with one child worker for each.

Owns starting the children and carrying requests from one to the next, or to the one named (``direct``).
Refuses loading models itself: each child does, in its own environment.

Main function: ``start_pipeline``.

The content type of a step's answer is the next step's request type; the caller's Accept goes to the last.
A failing step's status and text are the pipeline's, with the container's name in the response head.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import wire
from .calls import Answer, Call, Handler, LoadFailure, Refusal, answer_each
from .children import Child
from .spec import Container, Spec

_POLL_S = 0.02
_THREADS = 64
_HIGH_WATER_BYTES = 1 << 20  # of a stream, between two processes


class _Waiting:
    """What has come for one request and was not taken yet."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[wire.Response | wire.Chunk | None] = queue.SimpleQueue()
        self.stream_bytes = 0
        self.paused = False


class Step:
    """One child worker and the connection to it."""

    def __init__(self, container: Container, child: Child, sock: socket.socket, status_path: Path) -> None:
        """Take over a started child; ``begin`` starts reading."""
        self.hostname = container.hostname
        self.child = child
        self._sock = sock
        self._status_path = status_path
        self._lock = threading.Lock()
        self._next_id = 0
        self._open: dict[int, _Waiting] = {}
        self._gone = False

    def state(self) -> dict[str, Any]:
        """Read the child's status file; an unwritten one is loading."""
        try:
            return dict(json.loads(self._status_path.read_text("utf-8")))
        except FileNotFoundError:
            return {"state": "loading"}

    def begin(self) -> None:
        """Start reading answers."""
        threading.Thread(target=self._read, name=f"read-{self.hostname}", daemon=True).start()

    def _read(self) -> None:
        splitter = wire.FrameSplitter()
        try:
            while True:
                data = self._sock.recv(1 << 18)
                if not data:
                    break
                for kind, payload in splitter.feed(data):
                    if kind == wire.RESPONSES:
                        for response in wire.decode_responses(payload):
                            self._deliver(response.request_id, response, last=True)
                    elif kind == wire.CHUNK:
                        chunk = wire.decode_chunk(payload)
                        self._deliver(chunk.request_id, chunk, last=bool(chunk.flags & wire.CHUNK_LAST))
        except OSError:
            pass  # the same as EOF: the child is gone
        with self._lock:
            self._gone = True
            waiting, self._open = list(self._open.values()), {}
        for one in waiting:
            one.items.put(None)

    def _deliver(self, request_id: int, item: wire.Response | wire.Chunk, *, last: bool) -> None:
        with self._lock:
            waiting = self._open.pop(request_id, None) if last else self._open.get(request_id)
            if waiting is None:
                return
            if isinstance(item, wire.Chunk):
                waiting.stream_bytes += len(item.data)
                if waiting.stream_bytes > _HIGH_WATER_BYTES and not waiting.paused and not last:
                    waiting.paused = True
                    self._sock.sendall(wire.encode_pause(request_id))
        waiting.items.put(item)

    def _taken(self, request_id: int, waiting: _Waiting, item: wire.Chunk) -> None:
        with self._lock:
            waiting.stream_bytes -= len(item.data)
            if waiting.paused and waiting.stream_bytes <= _HIGH_WATER_BYTES // 2:
                waiting.paused = False
                if request_id in self._open and not self._gone:
                    self._sock.sendall(wire.encode_resume(request_id))

    def ask(self, head: wire.RequestHead, body: bytes) -> Iterator[wire.Response | wire.Chunk | None]:
        """Send one request; yields its whole answer or its chunks, None when the child is gone."""
        waiting = _Waiting()
        with self._lock:
            self._next_id = request_id = (self._next_id + 1) & 0xFFFFFFFF
            if not self._gone:
                self._open[request_id] = waiting
                try:
                    self._sock.sendall(
                        wire.encode_requests([(request_id, wire.encode_request_head(head), body)])
                    )
                except OSError:
                    self._open.pop(request_id, None)
                    waiting.items.put(None)
            else:
                waiting.items.put(None)
        finished = False
        try:
            while not finished:
                item = waiting.items.get()
                if isinstance(item, wire.Chunk):
                    self._taken(request_id, waiting, item)
                finished = (
                    item is None or isinstance(item, wire.Response) or bool(item.flags & wire.CHUNK_LAST)
                )
                yield item
        finally:
            if not finished:
                self._cancel(request_id)

    def _cancel(self, request_id: int) -> None:
        with self._lock:
            if self._open.pop(request_id, None) is not None and not self._gone:
                self._sock.sendall(wire.encode_cancel(request_id))

    def close(self) -> None:
        """Let the child go: EOF on its only connection ends it; then the signal."""
        self._sock.close()
        self.child.close(5.0)


def start_pipeline(spec: Spec, program: Path, closing: list[Handler]) -> PipelineHandler:
    """Start a child for each container, and wait until all are ready.

    Args:
        program: ``__main__.py`` of this worker.
        closing: Gets the handler before the first child starts, so that none is forgotten.
    Raises:
        LoadFailure: a child's own failure, with its container's name before it.
    """
    handler = PipelineHandler(spec.direct)
    closing.append(handler)
    try:
        for number, container in enumerate(spec.containers):
            handler.steps.append(_start_step(spec, program, number, container))
        for step in handler.steps:
            _wait_until_ready(step)
            step.begin()
    except LoadFailure:
        handler.close()
        raise
    names = [step.hostname for step in handler.steps]
    handler.note = (", " if spec.direct else " > ").join(names)
    return handler


def _start_step(spec: Spec, program: Path, number: int, container: Container) -> Step:
    ours, theirs = socket.socketpair()
    name = spec.status_path.name
    status_path = spec.status_path.with_name(f"{name}.{number}")
    spec_path = spec.status_path.with_name(f"{name}.{number}.spec.json")
    status_path.unlink(missing_ok=True)
    title = f"{spec.title} {container.hostname}"
    raw = {
        **spec.raw,
        "title": title,
        "listen_fd": None,
        "connection_fd": theirs.fileno(),
        "status_path": str(status_path),
        "containers": [spec.raw["containers"][number]],
        "direct": False,
    }
    spec_path.write_text(json.dumps(raw), "utf-8")
    fds = [theirs.fileno()] + ([] if spec.lifeline_fd is None else [spec.lifeline_fd])
    command = [container.python, "-u", str(program), "--spec", str(spec_path), "--title", title]
    try:
        child = Child(command, environment=os.environ, directory=container.model_dir, pass_fds=fds)
    except OSError as error:
        ours.close()
        raise LoadFailure(f"{container.hostname}: {container.python} can't be started", str(error)) from error
    finally:
        theirs.close()
    return Step(container, child, ours, status_path)


def _wait_until_ready(step: Step) -> None:
    while True:
        ended = step.child.end()  # before the status: a child that failed wrote it first
        status = step.state()
        if status["state"] == "ready":
            return
        if status["state"] == "failed":
            raise LoadFailure(f"{step.hostname}: {status.get('reason', '')}", str(status.get("detail", "")))
        if ended is not None:
            raise LoadFailure(f"{step.hostname}: its worker ended while loading", step.child.last_words())
        time.sleep(_POLL_S)


class PipelineHandler:
    """The conductor: passes each request through its steps."""

    kind = "pipeline"
    batch = False
    inline = False
    threads = _THREADS

    def __init__(self, direct: bool) -> None:
        """Begin with no steps; ``start_pipeline`` fills them in."""
        self.steps: list[Step] = []
        self.note = ""
        self._direct = direct

    def watch(self, died: Callable[[str], None]) -> None:
        """Tell when any child ends unasked."""
        for step in self.steps:
            step.child.watch(lambda detail, step=step: died(f"{step.hostname}: {detail}"))  # type: ignore[misc]

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Carry calls through, one after the other in this thread."""
        return answer_each(calls, self._answer_one)

    def _answer_one(self, call: Call) -> Answer:
        steps = self._steps_for(call.head)
        body, content_type = call.body, call.head.content_type
        for position, step in enumerate(steps):
            last = position == len(steps) - 1
            head = call.head._replace(
                content_type=content_type,
                accept=call.head.accept if last else "",
                flags=call.head.flags if last else call.head.flags.replace("s", ""),
                target_container_hostname="",
            )
            items = step.ask(head, body)
            item = next(items)
            if item is None:
                gone = wire.ResponseHead(content_type="text/plain", container=step.hostname)
                text = b"The container's process is gone."
                return Answer(wire.STATUS_MODEL_GONE, wire.encode_response_head(gone), text)
            answered = wire.decode_response_head(item.head)
            named = wire.encode_response_head(answered._replace(container=step.hostname))
            if isinstance(item, wire.Chunk):
                return Answer(item.status, named, b"", _stream(item, items))
            if last or not 200 <= item.status < 300:
                return Answer(item.status, named, item.body)
            body, content_type = item.body, answered.content_type
        raise AssertionError("a pipeline has steps")

    def _steps_for(self, head: wire.RequestHead) -> list[Step]:
        wanted = head.target_container_hostname
        if not self._direct:
            return self.steps
        for step in self.steps:
            if step.hostname == wanted:
                return [step]
        names = ", ".join(step.hostname for step in self.steps)
        if not wanted:
            raise Refusal(400, f"This model is invoked directly: name a target container ({names}).")
        raise Refusal(400, f"No container {wanted}; there are {names}.")

    def close(self) -> None:
        """End all children."""
        for step in self.steps:
            step.close()


def _stream(first: wire.Chunk, rest: Iterator[wire.Response | wire.Chunk | None]) -> Iterator[bytes]:
    item: wire.Response | wire.Chunk | None = first
    try:
        while True:
            if not isinstance(item, wire.Chunk):
                raise ConnectionError("the container's process is gone")
            if item.flags & wire.CHUNK_FAILED:
                raise RuntimeError(item.data.decode("utf-8", "replace"))
            if item.data:
                yield item.data
            if item.flags & wire.CHUNK_LAST:
                return
            item = next(rest)
    finally:
        close = getattr(rest, "close", None)
        if close is not None:
            close()

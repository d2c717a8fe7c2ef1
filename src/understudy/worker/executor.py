"""Threads in which a model answers while the I/O loop goes on reading.

Owns the queue between the loop and the model: natural batching (a thread takes all that has queued, for
models that gain from it), dropping what was cancelled, streaming chunk by chunk with back-pressure.
Refuses sockets: results go out through the ``Outlet`` it is given.

Main class: ``Executor``.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from . import wire
from .calls import Answer, Call, Handler, answer_each, describe, failure_answer, log_failure
from .tracebacks import log_traceback


class Outlet(Protocol):
    """Where an answer goes: one router connection."""

    def is_cancelled(self, request_id: int) -> bool:
        """Whether nobody waits for that answer any more."""
        ...

    def send_from_thread(self, frame: bytes, finished: int) -> None:
        """Queue a frame from a thread, ``finished`` requests being done with it."""
        ...

    def wait_for_room(self, request_id: int) -> None:
        """Wait while what is queued there is not read, or that stream's own reader is behind.

        Raises:
            TimeoutError: it is not read at all.
        """
        ...


class Job(NamedTuple):
    """One call on its way to the model."""

    outlet: Outlet
    request_id: int
    call: Call


def answer_all(handler: Handler, calls: Sequence[Call]) -> list[Answer]:
    """Ask the handler, and make sure that each call has an answer whatever the handler does."""
    try:
        answers = handler.answer(calls)
        if len(answers) != len(calls):
            raise RuntimeError(f"{handler.kind} gave {len(answers)} answers to {len(calls)} calls")
        return answers
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it raises
        if len(calls) == 1:
            return [failure_answer(error)]
        log_traceback(error)
        return answer_each(calls, lambda call: handler.answer([call])[0])


class Executor:
    """A pool of threads in front of one handler; the first submission starts them."""

    def __init__(self, handler: Handler, max_calls: int) -> None:
        """Prepare; ``max_calls`` bounds how many calls one thread takes at once."""
        self._handler = handler
        self._max_calls = max_calls
        self._queue: collections.deque[Job] = collections.deque()
        self._ready = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._busy = 0

    @property
    def is_idle(self) -> bool:
        """Nothing queued and no thread at work."""
        return not self._queue and self._busy == 0

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; called by the I/O loop."""
        with self._ready:
            self._queue.extend(jobs)
            wanted = min(self._handler.threads, self._busy + len(self._queue))
            while len(self._threads) < wanted:
                thread = threading.Thread(target=self._work, name=f"model-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._ready.notify(len(jobs))

    def _take(self) -> list[Job]:
        with self._ready:
            while not self._queue:
                self._ready.wait()
            count = min(len(self._queue), self._max_calls) if self._handler.batch else 1
            self._busy += 1
            return [self._queue.popleft() for _ in range(count)]

    def _work(self) -> None:
        while True:
            jobs = self._take()
            try:
                self._answer(jobs)
            finally:
                with self._ready:
                    self._busy -= 1

    def _answer(self, taken: list[Job]) -> None:
        done: dict[Outlet, int] = collections.Counter()
        jobs = []
        for job in taken:
            if job.outlet.is_cancelled(job.request_id):
                done[job.outlet] += 1
            else:
                jobs.append(job)
        answers = answer_all(self._handler, [job.call for job in jobs]) if jobs else []
        whole: dict[Outlet, list[tuple[int, int, bytes, bytes]]] = {}
        for job, answer in zip(jobs, answers):  # noqa: B905 - equal by construction
            if answer.chunks is None:
                whole.setdefault(job.outlet, []).append(
                    (job.request_id, answer.status, answer.head, answer.body)
                )
        for outlet, count in done.items():
            outlet.send_from_thread(b"", count)
        for outlet, responses in whole.items():
            for frame, count in frames_of(responses):
                outlet.send_from_thread(frame, count)
        for job, answer in zip(jobs, answers):  # noqa: B905
            if answer.chunks is not None:
                self._stream(job, answer)

    def _stream(self, job: Job, answer: Answer) -> None:
        flags = wire.CHUNK_FIRST
        request_id, chunks = job.request_id, answer.chunks
        assert chunks is not None
        data = b""
        try:
            for piece in chunks:
                if job.outlet.is_cancelled(request_id):
                    break
                frame = wire.encode_chunk(
                    request_id, flags=flags, status=answer.status, head=answer.head, data=piece
                )
                job.outlet.send_from_thread(frame, 0)
                flags = 0
                job.outlet.wait_for_room(request_id)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - user code may raise anything
            log_failure(error)
            flags |= wire.CHUNK_FAILED
            data = describe(error).encode("utf-8", "replace")
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        last = wire.encode_chunk(
            request_id, flags=flags | wire.CHUNK_LAST, status=answer.status, head=answer.head, data=data
        )
        job.outlet.send_from_thread(last, 1)


_FRAME_SOFT_LIMIT_BYTES = 8 << 20


def frames_of(responses: Sequence[tuple[int, int, bytes, bytes]]) -> list[tuple[bytes, int]]:
    """Pack whole answers into as few frames as the wire's bounds allow, each with its count."""
    size = sum(len(body) for _, _, _, body in responses)
    if size <= _FRAME_SOFT_LIMIT_BYTES and len(responses) <= wire.MAX_ITEMS_PER_FRAME:
        return [(_frame_of(responses), len(responses))]
    frames = []
    batch: list[tuple[int, int, bytes, bytes]] = []
    size = 0
    for response in responses:
        if batch and (size + len(response[3]) > _FRAME_SOFT_LIMIT_BYTES or len(batch) == 0xFFFF):
            frames.append((_frame_of(batch), len(batch)))
            batch, size = [], 0
        batch.append(response)
        size += len(response[3])
    frames.append((_frame_of(batch), len(batch)))
    return frames


def _frame_of(responses: Sequence[tuple[int, int, bytes, bytes]]) -> bytes:
    try:
        return wire.encode_responses(responses)
    except wire.WireError as error:
        # A model that answers status 70000 or a gigabyte: its own failure, and only its own.
        if len(responses) > 1:
            return b"".join(_frame_of([response]) for response in responses)
        text = f"the model's answer can't be sent: {error}".encode()
        return wire.encode_responses([(responses[0][0], 500, b"text/plain", text)])

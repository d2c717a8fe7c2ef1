"""A MemoryError is looked into wherever it is raised; it ends the process only when nothing is free again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from understudy.worker import memory
from understudy.worker.calls import TEXT_HEAD, Answer, Call, failure_answer
from understudy.worker.executor import Executor, Job
from understudy.worker.wire import RequestHead

LIMIT_BYTES = 1 << 30


class Outlet:
    """Takes frames; nobody reads them."""

    def is_cancelled(self, request_id: int) -> bool:
        return False

    def send_from_thread(self, frame: bytes, finished: int) -> None: ...

    def wait_for_room(self, request_id: int) -> None: ...


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is in use, and what was told of it."""
    found: dict[str, Any] = {"bytes": 0, "told": []}
    monkeypatch.setattr(memory, "_watchers", [found["told"].append])
    monkeypatch.setattr(memory.resource, "getrlimit", lambda what: (LIMIT_BYTES, LIMIT_BYTES))
    monkeypatch.setattr(memory, "used_bytes", lambda: found["bytes"])
    return found


def pieces() -> Iterator[bytes]:
    yield b"one"
    raise MemoryError


def stream() -> None:
    job = Job(Outlet(), 7, Call(RequestHead(), b""))
    Executor(None, 1)._stream(job, Answer(200, TEXT_HEAD, b"", pieces()))  # type: ignore[arg-type]


@pytest.mark.parametrize("fail", [lambda: failure_answer(MemoryError()), stream], ids=["answer", "stream"])
def test_it_is_told_once_when_nothing_is_free_again(fail: Any, used: dict[str, Any]) -> None:
    used["bytes"] = LIMIT_BYTES // 2
    fail()
    assert used["told"] == []
    used["bytes"] = LIMIT_BYTES
    fail()
    fail()
    assert used["told"] == ["MemoryError: 1.00 of 1.00 GiB are in use for good"]


def test_other_failures_are_not_looked_into(used: dict[str, Any]) -> None:
    used["bytes"] = LIMIT_BYTES
    failure_answer(ValueError("no"))
    assert used["told"] == []

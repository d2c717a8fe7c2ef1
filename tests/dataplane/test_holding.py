"""A held answer is released exactly once: with its record, without it, or when it took too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from understudy.dataplane.calls import Call
from understudy.dataplane.holding import LONGEST_HOLD_S, Holding


def run(act: Callable[[Holding], list[Callable[[bool], None]]]) -> list[tuple[bytes, bool]]:
    """Hold what ``act`` holds, call what it returns twice each, and return what was released."""
    released: list[tuple[bytes, bool]] = []

    async def main() -> None:
        holding = Holding(
            asyncio.get_running_loop(),
            lambda call, answer, received_ns, kept: released.append((answer, kept)),
        )
        for acknowledge in act(holding):
            acknowledge(True)
            acknowledge(False)
        await asyncio.sleep(0)

    asyncio.run(main())
    return released


def call() -> Call:
    stand_in: Any = type("V", (), {"timeout_ns": 1, "name": "v"})()
    return Call(None, stand_in, stand_in, b"", 0, 0)


def test_acknowledged_answers_leave_once() -> None:
    def act(holding: Holding) -> list[Callable[[bool], None]]:
        told: list[Callable[[bool], None]] = []
        for answer in (b"1", b"2"):
            holding.hold(call(), answer, 0, lambda one: told.append(one) is None)
        return told

    assert run(act) == [(b"1", True), (b"2", True)]


def test_what_is_shed_is_released_at_once() -> None:
    def act(holding: Holding) -> list[Callable[[bool], None]]:
        holding.hold(call(), b"1", 0, lambda one: False)
        return []

    assert run(act) == [(b"1", False)]


def test_what_takes_too_long_is_given_up() -> None:
    def act(holding: Holding) -> list[Callable[[bool], None]]:
        told: list[Callable[[bool], None]] = []
        holding.hold(call(), b"1", 0, lambda one: told.append(one) is None)
        now_ns = time.monotonic_ns()
        holding.end_overdue(now_ns)
        holding.end_overdue(now_ns + int((LONGEST_HOLD_S + 1) * 1e9))
        return told  # the record came after all: the caller has its answer already

    assert run(act) == [(b"1", False)]

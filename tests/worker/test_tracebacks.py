"""A failing model's log has the first tracebacks of each second, and the number of the others."""

from __future__ import annotations

import io
import re

from understudy.worker.tracebacks import PER_SECOND, Tracebacks


class Clock:
    at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def failure(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_few_failures_are_all_told() -> None:
    clock, stream = Clock(), io.StringIO()
    tracebacks = Tracebacks(clock, stream)
    for number in range(3 * (PER_SECOND - 1)):
        clock.at_s = 100.0 + number // (PER_SECOND - 1)
        tracebacks.log(failure(f"number {number}"))
    said = stream.getvalue()
    assert re.findall(r"ValueError: number (\d+)", said) == [str(n) for n in range(3 * (PER_SECOND - 1))]
    assert said.count("Traceback (most recent call last):") == 3 * (PER_SECOND - 1)
    assert "raise ValueError(text)" in said and "(" + str(PER_SECOND) not in said


def test_of_a_flood_the_first_are_told_and_the_others_counted() -> None:
    clock, stream = Clock(), io.StringIO()
    tracebacks = Tracebacks(clock, stream)
    for number in range(5_000):
        tracebacks.log(failure(f"number {number}"))
    said = stream.getvalue()
    assert said.count("ValueError: number") == PER_SECOND
    assert f"(the last of {PER_SECOND} tracebacks that are written in a second)\nTraceback" in said
    clock.at_s += 1.0
    tracebacks.log(failure("the next second"))
    later = stream.getvalue()[len(said) :]
    assert later.startswith(f"({5_000 - PER_SECOND} more failures without their tracebacks)\nTraceback")
    assert later.endswith("ValueError: the next second\n")
    clock.at_s += 1.0
    tracebacks.log(failure("and one more"))
    assert "more failures" not in stream.getvalue()[len(said) + len(later) :]

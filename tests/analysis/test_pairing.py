"""Bringing together what belongs to one request."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from understudy.analysis.pairing import grouped


class _Item(NamedTuple):
    name: str | None
    at_s: float


def _groups(*streams: list[_Item], slack_s: float = float("inf")) -> list[tuple[_Item | None, ...]]:
    return list(grouped([iter(one) for one in streams], lambda item: item.name, slack_s))


def test_matches_singles_and_what_has_no_key() -> None:
    a, b, lone, odd = _Item("a", 1.0), _Item("b", 2.0), _Item("lone", 3.0), _Item(None, 4.0)
    found = _groups([a, b, odd], [b, a, lone])
    assert sorted(map(str, found)) == sorted(map(str, [(a, a), (b, b), (None, lone), (odd, None)]))


@given(
    numbers=st.lists(st.integers(0, 300), unique=True, max_size=60),
    kept=st.lists(st.integers(0, 300), max_size=60),
    shift=st.integers(0, 20),
)
def test_within_the_slack_every_match_is_found(numbers: list[int], kept: list[int], shift: int) -> None:
    numbers.sort()
    ours = [_Item(str(number), float(number)) for number in numbers]
    theirs = [_Item(str(number), float(number + shift)) for number in numbers if number in set(kept)]
    found = _groups(ours, theirs, slack_s=20.0)
    pairs = [group for group in found if group[0] is not None and group[1] is not None]
    assert len(pairs) == len(theirs)
    assert len(found) == len(ours)


def test_memory_is_what_the_slack_holds() -> None:
    """A shadow that answers nothing must not make production's records pile up."""
    alive: set[int] = set()
    most = 0

    class Counted:
        def __init__(self, number: int) -> None:
            nonlocal most
            self.name, self.at_s = str(number), float(number)
            self.number = number
            alive.add(number)
            most = max(most, len(alive))

    def production():  # type: ignore[no-untyped-def]
        for number in range(5000):
            yield Counted(number)

    def shadow():  # type: ignore[no-untyped-def]
        yield Counted(10_000)

    total = 0
    for group in grouped([production(), shadow()], lambda item: item.name, 100.0):
        total += 1
        for one in group:
            if one is not None:
                alive.discard(one.number)
    assert total == 5001
    assert most < 110


def test_three_streams() -> None:
    a = _Item("a", 1.0)
    assert _groups([a], [a], [a]) == [(a, a, a)]
    assert _groups([a], [a], []) == [(a, a, None)]

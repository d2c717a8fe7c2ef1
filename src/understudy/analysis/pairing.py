"""Bringing together what belongs to one request, from streams that are in order of time, nearly.

Owns :func:`grouped`.  Memory holds what is at most ``slack_s`` behind the slowest stream, not the streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar


class Timed(Protocol):
    """Something of a time."""

    @property
    def at_s(self) -> float:
        """Unix time in seconds."""
        ...


T = TypeVar("T", bound=Timed)


def grouped(
    streams: Sequence[Iterator[T]], key: Callable[[T], object], slack_s: float
) -> Iterator[tuple[T | None, ...]]:
    """Yield one tuple per key: each stream's item, None where it has none.

    Of several items of one stream with the same key the first counts.

    Args:
        key: None of an item that can't be matched: it is yielded alone.
        slack_s: How far out of order items may come, within a stream and between them; ``inf`` holds
            everything unmatched until the end.
    """
    clocks = [float("-inf")] * len(streams)
    waiting: dict[object, list[T | None]] = {}
    arrivals: list[deque[tuple[float, object]]] = [deque() for _ in streams]
    while any(clock < float("inf") for clock in clocks):
        place = min(range(len(streams)), key=clocks.__getitem__)
        item = next(streams[place], None)
        if item is None:
            clocks[place] = float("inf")
        else:
            clocks[place] = max(clocks[place], item.at_s)
            found = key(item)
            if found is None:
                yield tuple(item if at == place else None for at in range(len(streams)))
                continue
            group = waiting.get(found)
            if group is None:
                group = waiting[found] = [None] * len(streams)
                arrivals[place].append((item.at_s, found))
            if group[place] is None:
                group[place] = item
            if all(one is not None for one in group):
                yield tuple(waiting.pop(found))
        horizon_s = min(clocks) - slack_s
        for queue in arrivals:
            while queue and queue[0][0] < horizon_s:
                _, late = queue.popleft()
                if late in waiting:
                    yield tuple(waiting.pop(late))
    for group in waiting.values():
        yield tuple(group)

"""Sketches as bytes: how ``Summary.buckets`` is kept in a database.

Owns the packed form: a MessagePack list ``[bucket, count, step to the next bucket, count, ...]`` in rising
order, about three bytes per bucket.  Refuses nothing; empty sketches are None.
Main class: :class:`PackedBuckets`, which unpacks only when somebody asks for a percentile.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import accumulate
from typing import overload

import msgspec

from understudy.core.metrics import RankedBuckets

_DECODER = msgspec.msgpack.Decoder()  # of what pack wrote: whole numbers, and counts that may be floats


def pack(buckets: Mapping[int, float]) -> bytes | None:
    """Pack a sketch; None for an empty one."""
    if not buckets:
        return None
    if isinstance(buckets, PackedBuckets) and (blob := buckets.only_blob) is not None:
        return blob
    flat: list[int | float] = []
    before = 0
    for bucket, count in sorted(buckets.items()):
        # A whole number takes a byte or two where a float takes nine; above 2**53 it is no longer one.
        flat += (bucket - before, int(count) if count < 2**53 and count.is_integer() else count)
        before = bucket
    return msgspec.msgpack.encode(flat)


def unpack(blobs: Iterable[bytes]) -> dict[int, float]:
    """Unpack sketches into one."""
    merged: dict[int, float] = {}
    for blob in blobs:
        flat = _DECODER.decode(blob)
        one = dict(zip(accumulate(flat[::2]), map(float, flat[1::2]), strict=True))
        if merged:
            for bucket, count in one.items():
                merged[bucket] = merged.get(bucket, 0.0) + count
        else:
            merged = one
    return merged


def merge(one: bytes | None, other: bytes | None) -> bytes | None:
    """Add two packed sketches: SQL's ``merge_sketches(one, other)``."""
    if one is None or other is None:
        return one if other is None else other
    return pack(unpack((one, other)))


class MergeAggregate:
    """Add packed sketches: SQL's aggregate ``sum_sketches(sketch)``."""

    def __init__(self) -> None:
        self._blobs: list[bytes] = []

    def step(self, blob: bytes | None) -> None:
        """Take one in."""
        if blob is not None:
            self._blobs.append(blob)

    def finalize(self) -> bytes | None:
        """Return them all as one."""
        return self._blobs[0] if len(self._blobs) == 1 else pack(unpack(self._blobs))


class _Stepped(Sequence[int]):
    """Buckets by the steps between them: a percentile asks for one of them, so they are not all added up."""

    __slots__ = ("_steps",)

    def __init__(self, steps: list[int]) -> None:
        self._steps = steps

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        if isinstance(at, slice):
            return list(self)[at]
        if not -len(self._steps) <= at < len(self._steps):
            raise IndexError(at)
        return sum(self._steps[: at % len(self._steps) + 1])

    def __iter__(self) -> Iterator[int]:
        return accumulate(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class PackedBuckets(RankedBuckets):
    """Buckets that stay packed until they are read: Sum and Average of a day need none of them.

    Args:
        blobs: Packed sketches that together are the mapping.
    """

    __slots__ = ("_blobs", "_buckets")

    def __init__(self, blobs: Sequence[bytes]) -> None:
        self._blobs = blobs
        self._buckets: dict[int, float] | None = None

    @property
    def only_blob(self) -> bytes | None:
        """The packed form where there is a single one."""
        return self._blobs[0] if len(self._blobs) == 1 else None

    def _read(self) -> dict[int, float]:
        if self._buckets is None:
            self._buckets = unpack(self._blobs)
        return self._buckets

    def __getitem__(self, bucket: int) -> float:
        return self._read()[bucket]

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def ranks(self) -> tuple[Sequence[int], list[float]]:
        """Read the order off a single sketch: it is packed in rising order."""
        if self._buckets is None and len(self._blobs) == 1:
            flat = _DECODER.decode(self._blobs[0])
            counts = flat[1::2]
            if all(counts):
                return _Stepped(flat[::2]), list(accumulate(counts))
        ordered = sorted(pair for pair in self._read().items() if pair[1] > 0.0)
        return [bucket for bucket, _ in ordered], list(accumulate(count for _, count in ordered))

    def items(self) -> ItemsView[int, float]:
        """Return (bucket, count) pairs; the mixin's would look each one up."""
        return self._read().items()

    def values(self) -> ValuesView[float]:
        """Return the counts."""
        return self._read().values()

    def __repr__(self) -> str:
        return repr(self._read())

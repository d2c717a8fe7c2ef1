"""Two variants' captured answers held against each other, request by request.

Owns how records are matched and what of them is compared; what counts as a difference is
``analysis.differences``' business.  Main function: :func:`compare`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from understudy.analysis.answers import Answer
from understudy.analysis.differences import Comparison, Request
from understudy.analysis.pairing import grouped
from understudy.capture.reader import Captured, Side

SLACK_S = 600.0  # records of one request come to the files of its variants within this
REMEMBERED_INPUTS = 20_000
REMEMBERED_BYTES = 4096
KEYS: dict[str, Callable[[Captured], object]] = {
    "event": lambda one: one.event_id,
    "inference": lambda one: one.inference_id,
    "input": lambda one: None if one.input is None else hashlib.sha256(one.input.data.encode()).digest(),
}


@dataclass(frozen=True)
class Compared:
    """Who is compared: streams of records, and their names."""

    names: tuple[str, str]
    streams: tuple[Iterator[Captured], ...]
    slack_s: float


def compare(compared: Compared, comparison: Comparison, match: str) -> Comparison:
    """Read all records and compare them.

    Args:
        match: A key of ``KEYS``.
    """
    seen = RepeatedRequests()
    for baseline, candidate, *others in grouped(compared.streams, KEYS[match], compared.slack_s):
        again = others[0] if others else None
        ours = _answer(baseline)
        theirs = _answer(candidate)
        if ours is None or theirs is None:
            if ours is not None or theirs is not None:
                comparison.add_single("candidate" if ours is None else "baseline")
        else:
            assert baseline is not None
            shown = baseline.input if baseline.input is not None else (candidate and candidate.input)
            request = Request(
                baseline.event_id,
                baseline.inference_id,
                baseline.at_s,
                None if not shown else body_of(shown),
            )
            comparison.add(request, ours, theirs, _answer(again))
        if len(compared.streams) == 2 and baseline is not None and ours is not None:
            before = seen.answer_before(baseline, ours)
            if before is not None:
                comparison.add_noise(before, ours)
    return comparison


class RepeatedRequests:
    """Production's latest answers by request, for equal requests that come again; bounded."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def answer_before(self, record: Captured, answer: Answer) -> Answer | None:
        """Return the answer to the same request before this one, and remember this one."""
        if record.input is None or len(answer.body) > REMEMBERED_BYTES:
            return None
        content = f"{record.input.content_type}\0{record.custom_attributes}\0{record.input.data}"
        key = hashlib.sha256(content.encode("utf-8", "replace")).digest()
        before = self._answers.pop(key, None)
        self._answers[key] = answer
        if len(self._answers) > REMEMBERED_INPUTS:
            self._answers.popitem(last=False)
        return before


def _answer(record: Captured | None) -> Answer | None:
    return None if record is None or record.output is None else body_of(record.output)


def body_of(side: Side) -> Answer:
    """Return the body of a record; as it stands where it is not the base64 it claims to be."""
    try:
        return Answer(side.body, side.content_type)
    except ValueError:
        return Answer(side.data.encode(), side.content_type)

"""Reads the ground truth of endpoints that have a source of it, file by file, as files appear and grow.

Owns the order of steps: a file's labels are kept (once each, whoever reads it again), then the file is noted
as read.  Main class: :class:`GroundTruthLoop`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from understudy.capture.ground_truth import list_files, parse_ground_truth
from understudy.capture.growing import bucket_and_prefix
from understudy.capture.reader import NotARecord, plain_lines
from understudy.core.endpoints import Endpoint
from understudy.core.errors import ApiError, Conflict
from understudy.core.ground_truth import TOLD_PROBLEMS, GroundTruth, is_new, settle
from understudy.core.outcomes import Outcome
from understudy.core.ports import Clock, Delete, ObjectInfo, Objects, Outcomes, Put, Query, Records, Stored

log = logging.getLogger(__name__)

BUDGET_S = 1.0
AT_ONCE = 2000  # labels per transaction


class GroundTruthLoop:
    """One per controller."""

    def __init__(self, records: Records, objects: Objects, outcomes: Outcomes, clock: Clock) -> None:
        self._records = records
        self._objects = objects
        self._outcomes = outcomes
        self._clock = clock

    def tick(self, budget_s: float = BUDGET_S) -> bool:
        """Read what is new, for about as many real seconds; tell whether more is left."""
        until_s = time.monotonic() + budget_s
        more = False
        for stored in self._records.find(GroundTruth, Query()):
            try:
                more |= self._look_at(stored, until_s)
            except Conflict:
                more = True  # changed by its owner: look at what it is now
        return more

    def _look_at(self, stored: Stored[GroundTruth], until_s: float) -> bool:
        truth = stored.value
        if self._records.get(Endpoint, truth.name) is None:
            self._records.commit([Delete(GroundTruth, truth.name, stored.version)])
            return False
        bucket, prefix = bucket_and_prefix(truth.s3_uri)
        try:
            present: dict[str, float] = {}
            version = stored.version
            for info in list_files(self._objects, bucket, prefix):
                present[info.key] = info.modified_at_s
                if not is_new(truth, info.key, info.etag, info.modified_at_s):
                    continue
                if time.monotonic() > until_s:
                    return True
                truth = self._read(truth, info)
                self._records.commit([Put(truth, version)])
                version += 1
        except ApiError as error:
            self._note(stored, f"{truth.s3_uri} can't be read: {error.message}")
            return False
        settled = settle(truth, present)
        if settled != truth:
            self._records.commit([Put(settled, version)])
        return False

    def _note(self, stored: Stored[GroundTruth], problem: str) -> None:
        """Keep why nothing can be read, once."""
        current = self._records.get(GroundTruth, stored.value.name)
        if current is not None and current.value.problems[-1:] != (problem,):
            log.warning("ground truth of endpoint %s: %s", stored.value.name, problem)
            noted = replace(current.value, problems=_latest(current.value.problems, [problem]))
            self._records.commit([Put(noted, current.version)])

    def _read(self, truth: GroundTruth, info: ObjectInfo) -> GroundTruth:
        """Keep the labels of one file; return the record that notes it."""
        place = f"s3://{info.bucket}/{info.key}"
        problems: tuple[str, ...] = ()
        labels: list[Outcome] = []
        lines = bad_lines = 0
        for number, line in enumerate(plain_lines(self._objects.read(info.bucket, info.key)), 1):
            if not line.strip():
                continue
            lines += 1
            try:
                labels.append(
                    parse_ground_truth(
                        line,
                        at_s=info.modified_at_s,
                        source=f"{place}:{number}",
                        attribute=truth.attribute,
                    )
                )
            except NotARecord as error:
                bad_lines += 1
                problems = _latest(problems, [f"{place}:{number}: {error}"[:500]])
            if len(labels) >= AT_ONCE:
                self._keep(truth.name, labels)
        self._keep(truth.name, labels)
        again = info.key in truth.read
        return replace(
            truth,
            read={**truth.read, info.key: (info.etag, info.modified_at_s)},
            files=truth.files + (not again),
            lines=truth.lines + lines,
            bad_lines=truth.bad_lines + bad_lines,
            problems=_latest(truth.problems, problems),
            modified_at_s=self._clock.now_s(),
        )

    def _keep(self, endpoint: str, labels: list[Outcome]) -> None:
        if labels:
            self._outcomes.add(endpoint, labels, self._clock.now_s())
            labels.clear()


def _latest(problems: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    return (*problems, *new)[-TOLD_PROBLEMS:]

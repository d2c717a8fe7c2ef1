"""Measures model quality for judgements beside the loop that judges, so that errors never wait for labels.

Main class: :class:`LabelEvidence`: the judging thread says what it follows and takes what was found; the
measuring thread spends a twentieth of its time at most.
"""

from __future__ import annotations

import logging
import threading
import time

from understudy.analysis.routed import Extra
from understudy.capture.judging import Judged
from understudy.capture.labelled_arms import LabelledArms
from understudy.core.errors import ApiError
from understudy.core.ports import Clock

log = logging.getLogger(__name__)

AT_LEAST_EVERY_S = 2.0  # of real time
REST_FACTOR = 20.0
FORGOTTEN_AFTER_S = 60.0


class LabelEvidence:
    """Shared by two threads."""

    def __init__(self, arms: LabelledArms, clock: Clock) -> None:
        self._arms = arms
        self._clock = clock
        self._lock = threading.Lock()
        self._followed: dict[tuple[str, str], tuple[Judged, float]] = {}
        self._found: dict[tuple[str, str], Extra] = {}
        self._told: dict[tuple[str, str], Extra] = {}
        self._due_s: dict[tuple[str, str], float] = {}
        self._unread: dict[tuple[str, str], str] = {}

    def newest(self, judged: Judged) -> Extra | None:
        """Follow a judgement; return what was found since this was called last."""
        key = (judged.judgement.name, judged.judgement.pair.identity)
        with self._lock:
            self._followed[key] = (judged, time.monotonic())
            return self._found.pop(key, None)

    def tick(self) -> bool:
        """Measure what is due."""
        now_s = time.monotonic()
        with self._lock:
            for key in [key for key, (_, at_s) in self._followed.items() if at_s < now_s - FORGOTTEN_AFTER_S]:
                for kept in (self._followed, self._found, self._told, self._due_s, self._unread):
                    kept.pop(key, None)
            followed = [(key, judged) for key, (judged, _) in self._followed.items()]
        for key, judged in followed:
            began_s = time.monotonic()
            if began_s < self._due_s.get(key, 0.0):
                continue
            found = self._found_of(key, judged)
            spent_s = time.monotonic() - began_s
            with self._lock:
                self._due_s[key] = began_s + max(AT_LEAST_EVERY_S, REST_FACTOR * spent_s)
                if found is not None and found != self._told.get(key):
                    self._told[key] = self._found[key] = found
        return False

    def _found_of(self, key: tuple[str, str], judged: Judged) -> Extra | None:
        """Measure one; where its answers can't be read, others' are."""
        try:
            found = self._arms.find(judged, self._clock.now_s())
        except ApiError as error:
            if self._unread.get(key) != error.message:  # told once, not every two seconds
                self._unread[key] = error.message
                log.warning("answers of %s can't be read: %s", key[0], error.message)
            return None
        self._unread.pop(key, None)
        return found

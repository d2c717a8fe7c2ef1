"""Hands in what killed routers had counted and not sent, and counts the records that died with them.

Owns :class:`Leftovers`, which looks at ``DATA/run/counts``: a journal that nobody holds the lock of is a
router's that is gone.  Its batches are recorded under that router's own boot and sequences, so that what came
over the channel before is not counted twice; whatever step the controller is killed at is repeated.
Records that were to come out of a router's spools and never did died with it: they count as ``shutdown``.
Main function: :meth:`Leftovers.hand_in`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from understudy.dataplane.accounting import read_back
from understudy.dataplane.journal import SUFFIX, read_journal

log = logging.getLogger(__name__)

Place = tuple[str, str]


class Spooled(Protocol):
    """What came out of the spools of one kind; ``capture.collector.Collector``."""

    def taken(self, boot: str) -> Mapping[Place, int] | None:
        """Count a router's records, by (endpoint, variant); None while there may be more of them."""
        ...

    def remember(self, boots: Collection[str]) -> None:
        """Forget the counts of all routers but these."""
        ...


class Leftovers:
    """Looks for journals of routers that are gone.

    Args:
        directory: ``DATA/run/counts``.
        spools: By the kind of their records: ``capture``, ``assignment``.
        on_metrics: Records a batch once: (boot, sequence, items).
    """

    def __init__(
        self,
        directory: Path,
        spools: Mapping[str, Spooled],
        on_metrics: Callable[[str, int, list[dict[str, Any]]], None],
    ) -> None:
        self._directory = directory
        self._spools = spools
        self._on_metrics = on_metrics
        self._told: set[str] = set()

    def hand_in(self) -> None:
        """Look once; what can't be finished yet is left to the next time."""
        paths = sorted(self._directory.glob(f"*{SUFFIX}"))
        for path in paths:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it lives
            else:
                self._hand_in(path, descriptor)
            finally:
                os.close(descriptor)
        boots = {_boot_of(path) for path in paths if path.exists()}
        for spooled in self._spools.values():
            spooled.remember(boots)

    def _hand_in(self, path: Path, descriptor: int) -> None:
        found, boot = read_journal(descriptor), _boot_of(path)
        if found is None:
            path.unlink()
            return
        batches, expected = read_back(found)
        for batch in batches:
            self._on_metrics(boot, batch["seq"], batch["data"])
        if boot not in self._told:
            self._told.add(boot)
            log.info("router %s is gone: handed in what it had counted", path.stem)
        taken: dict[tuple[str, str, str], int] = {}
        for kind, spooled in self._spools.items():
            counts = spooled.taken(boot)
            if counts is None:
                return
            taken |= {(kind, *place): count for place, count in counts.items()}
        lost = {whose: count - taken.get(whose, 0) for whose, count in expected.items()}
        items = [
            {"endpoint": endpoint, "variant": variant, "at_s": found.at_s, kind: {"shutdown": count}}
            for (kind, endpoint, variant), count in lost.items()
            if count > 0
        ]
        if items:
            last = batches[-1]["seq"] if batches else int(found.snapshot["sequence"])
            self._on_metrics(boot, last + 1, items)
            log.warning(
                "%d records of requests were lost when router %s was killed",
                sum(count for count in lost.values() if count > 0),
                path.stem,
            )
        if any(count < 0 for count in lost.values()):
            log.error("more records came out of the spool of router %s than it counted: %s", path.stem, lost)
        path.unlink()
        self._told.discard(boot)


def _boot_of(path: Path) -> str:
    return path.stem.partition("-")[2]

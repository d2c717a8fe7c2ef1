"""What a run has measured so far, on disk: one that was cut short goes on where it was.

Owns ``.cache/bench/unfinished.json``.  Refuses to mix runs: what was measured by another schedule or of
another tree is not taken up.  Main class: :class:`Progress`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from bench.environments import CACHE, ROOT
from bench.measuring import Measurement
from bench.modes import Row, Schedule
from bench.report import Duel

FILE = CACHE / "unfinished.json"


class Progress:
    """Duels, rows and missing peers, kept after each part.

    Attributes:
        done: Names of the parts that are over.
    """

    def __init__(self, schedule: Schedule, *, resume: bool) -> None:
        self.duels: list[Duel] = []
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}
        self.done: list[str] = []
        self._key = hashlib.sha256(f"{schedule} {_tree()}".encode()).hexdigest()
        if resume and FILE.exists():
            self._load(json.loads(FILE.read_text()))

    def _load(self, kept: dict[str, Any]) -> None:
        if kept["key"] != self._key:
            return
        for duel in kept["duels"]:
            sides = {side: [Measurement(**one) for one in duel[side]] for side in ("ours", "theirs")}
            self.duels.append(Duel(**{**duel, **sides}))
        self.rows = [Row(**row) for row in kept["rows"]]
        self.missing, self.done = kept["missing"], kept["done"]

    def finish(self, part: str) -> None:
        """Note that a part is over."""
        self.done.append(part)
        FILE.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "key": self._key,
            "duels": [dataclasses.asdict(duel) for duel in self.duels],
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "missing": self.missing,
            "done": self.done,
        }
        FILE.with_suffix(".part").write_text(json.dumps(kept))
        FILE.with_suffix(".part").replace(FILE)

    def forget(self) -> None:
        """The run is over: nothing is left to go on with."""
        FILE.unlink(missing_ok=True)


def _tree() -> str:
    """Digest the code that is measured and the code that measures."""
    digest = hashlib.sha256()
    for folder in ("src", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()

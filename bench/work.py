"""The work that everybody does: one XGBoost model, 200 rows, the right answer of each.

Owns ``.cache/bench/work``: trained once per XGBoost version and source of rows.  Main function:
:func:`prepare`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.environments import CACHE, PEERS, ROOT, environment_of
from bench.loadgen.plans import Request, write_plan

CHURN = ROOT.parent / "shared" / "data" / "churn" / "csv" / "training-dataset-with-header.csv"


@dataclass(frozen=True)
class Work:
    """What is served and sent.

    Attributes:
        model: ``model.ubj``.
        artifact: ``model.tar.gz`` with the same file, for Understudy.
        rows: CSV texts.
        expected: ``repr`` of the float32 that XGBoost says for each.
        source: Where the rows come from.
    """

    folder: Path
    model: Path
    artifact: Path
    rows: list[str]
    expected: list[str]
    xgboost: str
    source: str

    def plan(self, kind: str, path: str, headers: dict[str, str] | None = None) -> Path:
        """Write the requests that a contestant understands.

        Args:
            kind: ``csv`` (text/csv both ways), ``text`` (the same as text/plain), ``array`` (a JSON array in,
                a JSON number out: the same text), ``v2`` (the V2 inference protocol), ``any`` (whatever
                is sent, 0.5 comes back).
            path: Where to post them.
        """
        requests = []
        for row, right in zip(self.rows, self.expected, strict=True):
            expect: str | None = right
            contains = None
            body, content_type = row, "text/csv"
            if kind == "text":
                content_type = "text/plain"
            elif kind == "array":
                body, content_type = f"[{row}]", "application/json"
            elif kind == "v2":
                columns = row.count(",") + 1
                body = (
                    f'{{"inputs":[{{"name":"row","shape":[1,{columns}],"datatype":"FP32","data":[{row}]}}]}}'
                )
                content_type, expect, contains = "application/json", None, f'"data":[{right}]'
            elif kind == "any":
                expect = "0.5"
            sent = {"Content-Type": content_type, **(headers or {})}
            requests.append(Request(path, body, sent, expect=expect, contains=contains))
        name = hashlib.sha256(f"{kind} {path} {headers}".encode()).hexdigest()[:12]
        file = self.folder / f"plan-{name}.jsonl"
        write_plan(file, requests)
        return file


def prepare() -> Work:
    """Train the model if that has not been done, and read what it is."""
    trainer = PEERS / "shared" / "train.py"
    source = str(CHURN) if CHURN.is_file() else "-"
    python = environment_of("bare_loop")
    key = hashlib.sha256(trainer.read_bytes() + source.encode() + str(python).encode()).hexdigest()[:12]
    folder = CACHE / "work" / key
    if not (folder / "model.tar.gz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), str(trainer), source, str(folder)], check=True, timeout=300)
        temporary = folder / "model.tar.gz.part"
        with tarfile.open(temporary, "w:gz") as archive:
            archive.add(folder / "model.ubj", "xgboost-model.ubj")
        temporary.replace(folder / "model.tar.gz")
    facts = json.loads((folder / "work.json").read_text())
    where = "the churn training rows" if source != "-" else "made rows of the churn data's shape"
    return Work(
        folder,
        folder / "model.ubj",
        folder / "model.tar.gz",
        facts["rows"],
        facts["expected"],
        facts["xgboost"],
        where,
    )

"""``understudy labels import``: files that are no CSV, and rows that a server refuses, are told by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from understudy.cli import labels


@pytest.fixture()
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """Batches that a server got; one with the id ``bad`` is refused."""
    batches: list[list[dict[str, Any]]] = []

    def answer(server: Any, method: str, path: str, *, body: dict[str, Any]) -> dict[str, Any]:
        if any(one["inference_id"] == "bad" for one in body["outcomes"]):
            raise click.ClickException("outcomes[1].inference_id is bad")
        batches.append(body["outcomes"])
        return {"accepted": len(body["outcomes"]), "duplicates": 0, "conflicting": 0, "conflicts": []}

    monkeypatch.setattr(labels, "BATCH", 2)
    monkeypatch.setattr(labels, "connect", lambda _: None)
    monkeypatch.setattr(labels, "call_server", answer)
    return batches


def run(tmp_path: Path, content: bytes) -> Any:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    options = ["import", "churn", str(file), "--id-column", "id", "--label-column", "label"]
    return CliRunner().invoke(labels.command, options)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no column 'id'; there are: none"),
        (b"id,churned\n1,1\n", "has no column 'label'; there are: id, churned"),
        (b"id,label\na,1\n\xff\xfe,0\n", "can't be read as CSV in UTF-8"),
        (b"\xff\xfeid,label\n", "can't be read as CSV in UTF-8"),
        (b"id,label\na,1\nb," + b"1" * 200_000 + b"\n", "after line 2: field larger"),
        (b"id,label\na,1\nb,1\nc,1\nbad,1\n", "lines 4 to 5 of"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, sent: Any, content: bytes, told: str) -> None:
    done = run(tmp_path, content)
    assert done.exit_code == 1 and told in done.output, done.output


def test_rows_without_an_id_or_label_are_counted(tmp_path: Path, sent: Any) -> None:
    done = run(tmp_path, b"\xef\xbb\xbfid,label\na,1\n,1\nb,\nc\nd,x,y\n")
    assert done.exit_code == 0 and "3 rows without id or label left out" in done.output, done.output
    assert [one["inference_id"] for batch in sent for one in batch] == ["a", "d"]

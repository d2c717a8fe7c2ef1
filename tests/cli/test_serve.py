"""``understudy serve`` where it can't serve: one line, a code, and nothing of the user's removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVE = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0"]
PATIENCE_S = 60.0


def refused(cwd: Path, *arguments: str) -> str:
    done = subprocess.run([*SERVE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere"])
def test_a_data_dir_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    assert "--data-dir" in refused(tmp_path, "--data-dir", place)


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    told = refused(
        tmp_path, "--data-dir", "data", "--database", "postgresql://user:topsecret@127.0.0.1:1/records"
    )
    assert "127.0.0.1" in told and "topsecret" not in told


def test_records_that_are_no_database_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.db").write_text("no database " * 100)
    assert "records.db" in refused(tmp_path, "--data-dir", "data")


def test_environments_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    assert "/proc/nowhere" in refused(tmp_path, "--data-dir", "data", "--environments-dir", "/proc/nowhere")


def test_ephemeral_never_removes_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "not empty" in refused(tmp_path, "--ephemeral", "--data-dir", "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_ephemeral_by_the_environment_leaves_the_usual_directory_alone(tmp_path: Path) -> None:
    kept = tmp_path / ".understudy" / "records.db"
    kept.parent.mkdir()
    kept.write_text("from another day")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "UNDERSTUDY_EPHEMERAL": "true", "TMPDIR": str(temporary)}
    environment.pop("UNDERSTUDY_DATA_DIR", None)
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(SERVE, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while "listens on" not in log.read_text() and time.monotonic() < deadline_s:
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        assert [place.name[:11] for place in temporary.iterdir()] == ["understudy-"]
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE_S)
    assert code == 0, log.read_text()
    assert list(temporary.iterdir()) == []
    assert kept.read_text() == "from another day"


def test_a_data_directory_keeps_its_region(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    made = {
        "access_key_id": "AKIA",
        "secret_access_key": "s",
        "region": "eu-west-3",
        "account_id": "123456789012",
    }
    (tmp_path / "data" / "credentials.json").write_text(json.dumps(made))
    assert "--region eu-west-3" in refused(tmp_path, "--data-dir", "data")

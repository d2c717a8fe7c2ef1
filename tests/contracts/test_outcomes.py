"""Every store of outcomes gives the same answers: memory and a SQLite file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.outcomes import Added, Outcome, Tally
from understudy.core.ports import Outcomes
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.outcomes import SqliteOutcomes

Open = Callable[[], Outcomes]


@pytest.fixture(params=["memory", "sqlite"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    opened: list[Outcomes] = []

    def new() -> Outcomes:
        opened.append(
            MemoryOutcomes() if request.param == "memory" else SqliteOutcomes(tmp_path / f"{len(opened)}.db")
        )
        return opened[-1]

    yield new
    for store in opened:
        store.close()


def label(id_: str, value: float | str, at_s: float = 5.0, source: str = "") -> Outcome:
    return Outcome(id_, "label", value, at_s, source)


def test_the_first_report_stands(new_store: Open) -> None:
    store = new_store()
    assert store.add("e", [label("a", 1.0), label("b", 0.0, 6.0)], 10.0) == Added(2, 0, 0)
    again = store.add("e", [label("a", 1.0, 9.0), label("b", 1.0), label("c", "yes")], 11.0)
    assert again == Added(1, 1, 1, (("b", "label", 0.0, 1.0),))
    found = store.find("e", "label", ["a", "b", "c", "d"])
    assert {one: kept.outcome.value for one, kept in found.items()} == {"a": 1.0, "b": 0.0, "c": "yes"}
    assert found["a"].outcome.at_s == 5.0 and found["a"].received_at_s == 10.0
    assert store.tallies("e") == [Tally("label", "id", 3, 1, 1, 6.0)]


def test_endpoints_names_and_subjects_are_apart(new_store: Open) -> None:
    store = new_store()
    reports = [
        label("a", 1.0),
        Outcome("a", "revenue", 9.5, 5.0),
        Outcome("a", "label", 0.0, 5.0, "", "unit"),
    ]
    assert store.add("e", reports, 1.0).accepted == 3
    assert store.add("f", reports, 1.0).accepted == 3
    assert store.find("e", "revenue", ["a"])["a"].outcome.value == 9.5
    assert store.find("e", "label", ["a"], "unit")["a"].outcome.value == 0.0
    assert store.find("g", "label", ["a"]) == {}
    assert [(one.name, one.subject) for one in store.tallies("f")] == [
        ("label", "id"),
        ("label", "unit"),
        ("revenue", "id"),
    ]


def test_reading_a_file_again_is_no_second_report(new_store: Open) -> None:
    store = new_store()
    lines = [label("a", 1.0, source="s3://b/k:1"), label("a", 0.0, source="s3://b/k:2")]
    lines.append(label("a", 1.0, source="s3://b/k:3"))
    assert store.add("e", lines, 1.0) == Added(1, 1, 1, (("a", "label", 1.0, 0.0),))
    assert store.add("e", lines, 2.0) == Added(0, 0, 0)
    assert store.tallies("e") == [Tally("label", "id", 1, 1, 1, 5.0)]


def test_outcomes_come_in_the_order_in_which_they_were_kept(new_store: Open) -> None:
    store = new_store()
    store.add("e", [label(str(at), float(at)) for at in range(5)], 1.0)
    store.add("f", [label("x", 1.0)], 1.0)
    store.add("e", [label("late", (1.0, 0.0))], 2.0)
    first = store.after("e", 0, 3)
    rest = store.after("e", first[-1].sequence, 100)
    assert [kept.outcome.id for kept in first + rest] == ["0", "1", "2", "3", "4", "late"]
    assert rest[-1].outcome.value == (1.0, 0.0)
    assert sorted({kept.sequence for kept in first + rest}) == [kept.sequence for kept in first + rest]


def test_a_thousand_ids_are_found(new_store: Open) -> None:
    store = new_store()
    store.add("e", [label(str(at), float(at)) for at in range(1200)], 1.0)
    found = store.find("e", "label", [str(at) for at in range(-10, 1300)])
    assert {int(one): kept.outcome.value for one, kept in found.items()} == {at: at for at in range(1200)}


REPORTS = st.lists(
    st.builds(
        label,
        st.sampled_from("abc"),
        st.sampled_from([0.0, 1.0, "x"]),
        st.sampled_from([1.0, 2.0]),
        st.sampled_from(["", "s3://b/k:1", "s3://b/k:2"]),
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(batches=st.lists(REPORTS, max_size=4))
def test_both_stores_agree_and_counts_add_up(tmp_path: Path, batches: list[list[Outcome]]) -> None:
    path = tmp_path / "one.db"
    path.unlink(missing_ok=True)
    disk, memory = SqliteOutcomes(path), MemoryOutcomes()
    told = [(disk.add("e", batch, 1.0), memory.add("e", batch, 1.0)) for batch in batches]
    assert all(one == other for one, other in told)
    assert disk.tallies("e") == memory.tallies("e")
    in_order = [[kept.outcome for kept in store.after("e", 0, 100)] for store in (disk, memory)]
    assert in_order[0] == in_order[1]
    for tally in disk.tallies("e"):
        assert tally.kept == sum(added.accepted for added, _ in told)
        assert tally.duplicates == sum(added.duplicates for added, _ in told)
        assert tally.conflicting == sum(added.conflicting for added, _ in told)
    disk.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from understudy.core.outcomes import Outcome
from understudy.stores.outcomes import SqliteOutcomes
store = SqliteOutcomes(Path(sys.argv[1]))
store.add("e", [Outcome("a", "label", 1.0, 1.0)], 1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "o.db")], env=dict(os.environ), timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    store = SqliteOutcomes(tmp_path / "o.db")
    assert store.find("e", "label", ["a"])["a"].outcome.value == 1.0
    store.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    store = SqliteOutcomes(tmp_path / "o.db")
    with store._file.writing() as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    store.close()
    with pytest.raises(ValueError, match="newer version"):
        SqliteOutcomes(tmp_path / "o.db")

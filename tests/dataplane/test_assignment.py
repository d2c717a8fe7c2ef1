"""What a real router makes of units, stages and sources; and that its mapping is core's."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.capture.assignments import AssignmentCollector
from understudy.capture.batches import read_records
from understudy.core.assignment import Assignment, choose_for_unit
from understudy.core.routing import EndpointRoute, GreenRoute, VariantRoute, weighted_variants
from understudy.core.stages import Source, counts_of
from understudy.dataplane.accounting import Ledger
from understudy.dataplane.assignment import Sticky
from understudy.dataplane.invocation import Invocation
from understudy.dataplane.table import Variant
from understudy.stores.memory_assignments import MemoryAssignments

INFERENCE_ID = b"X-Amzn-SageMaker-Inference-Id: %b\r\n"
ATTRIBUTES = b"X-Amzn-SageMaker-Custom-Attributes: user=%b\r\n"
TARGET = b"X-Amzn-SageMaker-Target-Variant: %b\r\n"
PREFIX = b"x-amzn-sagemaker-"

weights = st.lists(st.floats(0.0, 1e9, allow_subnormal=False), min_size=1, max_size=4)


def asked(user: str) -> Invocation:
    attributes = {PREFIX + b"custom-attributes": b"user=" + user.encode()}
    return Invocation("e", attributes, False)


@given(
    blue=weights,
    green=st.none() | st.tuples(st.floats(0.0, 1.0), weights),
    user=st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20),
)
def test_the_routers_mapping_is_that_of_core(
    blue: list[float], green: tuple[float, list[float]] | None, user: str
) -> None:
    def fleet(name: str, some: list[float]) -> tuple[VariantRoute, ...]:
        return tuple(VariantRoute(f"V{at}", one, name, fleet_id=name) for at, one in enumerate(some))

    route = EndpointRoute(
        "e",
        fleet("f1", blue),
        sticky="custom-attributes.user",
        green=None if green is None else GreenRoute(green[0], fleet("f2", green[1])),
    )
    weighted, ledger = weighted_variants(route), Ledger()
    sticky = Sticky(route, [Variant(one, "e", [], ledger, source=Source.WEIGHT) for one, _ in weighted])
    chosen = sticky.choose(asked(user))
    wanted = choose_for_unit("e", user, [(one.name, one.fleet_id, weight) for one, weight in weighted])
    if wanted is None:
        assert chosen is None
    else:
        assert chosen is not None
        key = chosen.tally.key
        assert ((key.variant, key.fleet), key.source) == (wanted, Source.UNIT)
    assert sticky.choose(Invocation("e", {}, False)) is None


def test_a_variant_that_is_counted_elsewhere_is_the_same_in_everything_else() -> None:
    ledger = Ledger()
    variant = Variant(VariantRoute("A", 1.0, "c", timeout_s=7.0), "e", [], ledger, source=Source.WEIGHT)
    other = variant.counted_by(variant.tally.of_source(Source.TARGET))
    for name in Variant.__slots__:
        same = getattr(other, name) is getattr(variant, name) or getattr(other, name) == getattr(
            variant, name
        )
        assert same is (name != "tally"), name
    assert other.tally.key == variant.tally.key._replace(source="target")


def table(rig: Any, stage: int, weights: dict[str, float], **members: Any) -> None:
    rendered = rig.table({"e": {name: (weight, [name]) for name, weight in weights.items()}})
    (route,) = rendered["endpoints"]
    route.update(stage=stage, **members)
    for variant in route["variants"]:
        variant["fleet_id"] = "f1"
    rig.controller.publish(rendered)
    rig.controller.acked(rendered["version"])


def settled(rig: Any, requests: int) -> Counter[tuple[int, str, str]]:
    """Wait until so many requests are counted; return them by (stage, variant, source)."""
    deadline_s = time.monotonic() + 20.0
    while True:
        found: Counter[tuple[int, str, str]] = Counter()
        for one in counts_of(rig.controller.items()):
            found[one.stage, one.variant, str(one.source)] += one.requests
        if sum(found.values()) >= requests:
            return found
        assert time.monotonic() < deadline_s, found
        time.sleep(0.02)


def collected(rig: Any, folder: Path, count: int) -> list[Assignment]:
    """Wait until so many assignments came out of the router's spool."""
    store, told = MemoryAssignments(), Counter()

    def on_logged(source: str, number: int, counts: Any) -> None:
        told.update(counts)

    collector = AssignmentCollector(folder / "assignments", store, on_logged)
    deadline_s = time.monotonic() + 20.0
    while len(store.read("e", limit=10_000)) < count:
        assert time.monotonic() < deadline_s, store.read("e")
        collector.collect_once()
        time.sleep(0.02)
    assert sum(told.values()) == count
    return [one.assignment for one in store.read("e", limit=10_000)]


@pytest.fixture
def logging_rig(rig: Any, tmp_path: Path) -> Any:
    for name in ("A", "B"):
        rig.worker(name)
    rig.start_router(extra=("--spool-dir", str(tmp_path / "spool")))
    return rig


def test_every_request_counts_in_one_stage_arm_and_source(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    sent: Counter[tuple[int, str, str]] = Counter()
    for stage, share in enumerate((1.0, 3.0), start=1):
        table(rig, stage, {"A": share, "B": 1.0})
        for number in range(30):
            headers = TARGET % b"B" if number % 3 == 0 else b""
            answer = rig.invoke(headers=headers)
            variant = answer.headers["x-amzn-invoked-production-variant"]
            sent[stage, variant, "target" if headers else "weight"] += 1
    assert settled(rig, 60) == sent


def test_units_stay_and_requests_without_one_are_drawn(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    homes = []
    for stage, weight in ((1, 1.0), (2, 3.0)):
        table(rig, stage, {"A": 1.0, "B": weight}, sticky="custom-attributes.user", assignments="all")
        seen: dict[str, set[str]] = {}
        for _ in range(2):
            for number in range(20):
                answer = rig.invoke(headers=ATTRIBUTES % b"u%d" % number)
                home = seen.setdefault(f"u{number}", set())
                home.add(answer.headers["x-amzn-invoked-production-variant"])
        rig.invoke()
        assert all(len(one) == 1 for one in seen.values())
        expected = {
            user: choose_for_unit("e", user, [("A", "f1", 1.0), ("B", "f1", weight)]) for user in seen
        }
        assert {user: (next(iter(home)), "f1") for user, home in seen.items()} == expected
        homes.append(seen)
    moved = [user for user in homes[0] if homes[0][user] != homes[1][user]]
    assert {next(iter(homes[1][user])) for user in moved} <= {"B"}  # only toward whose weight rose
    counted = settled(rig, 82)
    by_source = {
        (stage, source): sum(n for (s, _, o), n in counted.items() if (s, o) == (stage, source))
        for stage in (1, 2)
        for source in ("unit", "weight")
    }
    assert by_source == {(1, "unit"): 40, (1, "weight"): 1, (2, "unit"): 40, (2, "weight"): 1}
    logged = collected(rig, tmp_path / "spool", 82)
    assert Counter((one.stage, one.variant, one.source) for one in logged) == counted
    assert all((one.unit is None) == (one.source == "weight") for one in logged)


def test_a_target_wins_over_the_unit(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    table(rig, 1, {"A": 1.0, "B": 1.0}, sticky="custom-attributes.user", assignments="all")
    for name in (b"A", b"B"):
        answer = rig.invoke(headers=ATTRIBUTES % b"ann" + TARGET % name)
        assert answer.headers["x-amzn-invoked-production-variant"] == name.decode()
    logged = collected(rig, tmp_path / "spool", 2)
    assert [(one.variant, one.source, one.unit) for one in logged] == [
        ("A", "target", None),
        ("B", "target", None),
    ]


def test_identified_requests_are_logged_with_what_became_of_them(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    table(rig, 7, {"A": 1.0}, assignments="identified")
    rig.invoke(headers=INFERENCE_ID % b"fine")
    rig.invoke()
    rig.workers["A"].answer = lambda request: (400, b"", b"bad row")
    assert rig.invoke(headers=INFERENCE_ID % b"bad").status == 424
    rig.workers["A"].answer = lambda request: None
    with rig.connect() as connection:
        connection.sendall(
            b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            + INFERENCE_ID % b"gone"
            + b"\r\n1"
        )
        deadline_s = time.monotonic() + 20.0
        while len(rig.workers["A"].requests) < 4:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    logged = {one.inference_id: one for one in collected(rig, tmp_path / "spool", 3)}
    assert {key: one.status for key, one in logged.items()} == {"fine": 200, "bad": 424, "gone": 499}
    assert {(one.stage, one.fleet_id, one.config_name) for one in logged.values()} == {(7, "f1", "e-config")}
    assert logged["fine"].model_latency_us is not None and logged["gone"].model_latency_us is None
    settled(rig, 4)
    totals = [0, 0, 0]
    for one in counts_of(rig.controller.items()):
        totals = [totals[0] + one.failures, totals[1] + one.abandoned, totals[2] + one.caller_errors]
    assert totals == [1, 1, 0]  # the model's 4XX is a failure, not the caller's


def test_an_event_id_is_that_of_the_captured_record(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    capture = {
        "destination": "s3://b/p",
        "sampling_percent": 100.0,
        "inputs": True,
        "outputs": True,
    }
    table(rig, 1, {"A": 1.0}, assignments="all", capture=capture)
    rig.invoke()
    (logged,) = collected(rig, tmp_path / "spool", 1)
    deadline_s = time.monotonic() + 20.0
    while not (captured := [p for p in (tmp_path / "spool").glob("*.spool") if p.stat().st_size]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    [(_, some, _)] = read_records(captured[0].read_bytes())
    event = json.loads(some.lines[0])
    assert logged.event_id == event["eventMetadata"]["eventId"]


def test_without_a_log_nothing_is_kept(logging_rig: Any, tmp_path: Path) -> None:
    rig = logging_rig
    table(rig, 1, {"A": 1.0}, assignments="off")
    rig.invoke(headers=INFERENCE_ID % b"i")
    settled(rig, 1)
    assert not (tmp_path / "spool" / "assignments").exists()


def test_where_there_is_no_spool_records_are_shed_and_counted(rig: Any) -> None:
    rig.worker("A")
    rig.start_router()
    table(rig, 1, {"A": 1.0}, assignments="all")
    rig.invoke()
    settled(rig, 1)
    deadline_s = time.monotonic() + 20.0
    while not (shed := [one["assignment"] for one in rig.controller.items() if "assignment" in one]):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert shed == [{"disk": 1}]

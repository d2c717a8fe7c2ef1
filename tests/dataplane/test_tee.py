"""Shadows get copies, callers production's answers, whatever shadows do; each copy is accounted for."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.capture.batches import read_records
from understudy.worker import wire

SIZES = [0, 1, 400, 65_535, 65_536, 262_145, 1_048_576, 1_048_577, 6_291_455, 6_291_456]


def request(body: bytes = b"1", headers: bytes = b"", stream: bytes = b"") -> bytes:
    return (
        b"POST /endpoints/e/invocations%b HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (stream, headers, len(body), body)
    )


def shadow(name: str, workers: list[str], share: float = 1.0, timeout_s: float = 60.0) -> dict[str, Any]:
    return {
        "name": name,
        "share": share,
        "config_name": "e-config",
        "timeout_s": timeout_s,
        "containers": ["primary"],
        "instances": [{"instance_id": f"e/{name}/f1/{one}", "address": f"w/{one}.sock"} for one in workers],
    }


def publish(rig: Any, variants: dict[str, tuple[float, list[str]]], *shadows: dict[str, Any]) -> None:
    table = rig.table({"e": variants})
    table["endpoints"][0]["shadows"] = list(shadows)
    rig.controller.publish(table)
    rig.controller.acked(table["version"])


def start(rig: Any, *shadows: dict[str, Any]) -> None:
    """One production variant ``v`` with worker ``a``, and shadows."""
    rig.worker("a")
    table = rig.table({"e": {"v": (1.0, ["a"])}})
    table["endpoints"][0]["shadows"] = list(shadows)
    rig.controller.table = table
    rig.start_router()
    rig.controller.acked(1)


def outcomes(rig: Any, name: str = "s") -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in rig.controller.items():
        if item.get("variant") == name:
            for outcome, count in item.get("shadow", {}).items():
                counts[outcome] = counts.get(outcome, 0) + count
    return counts


def until(check: Any, what: str = "", deadline_s: float = 20.0) -> Any:
    end_s = time.monotonic() + deadline_s
    while not (value := check()):
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return value


def settled(rig: Any, total: int, name: str = "s") -> dict[str, int]:
    """Wait until a shadow's outcomes have come; they are as many as production's requests, never more."""
    until(lambda: sum(outcomes(rig, name).values()) >= total, f"{total} outcomes")
    counts = outcomes(rig, name)
    assert sum(counts.values()) == total, counts
    return counts


def drive(rig: Any, read_answer: Any, count: int, body: bytes = b"1,2,3", headers: bytes = b"") -> None:
    """Send requests over one kept connection, some at a time; every one must be production's own answer."""
    at_once = 50 if len(body) < 1000 else 1  # who does not read its answers gets no further ones
    with rig.connect() as connection:
        file = connection.makefile("rb")
        for first in range(0, count, at_once):
            some = min(at_once, count - first)
            connection.sendall(request(body, headers) * some)
            for _ in range(some):
                answer = read_answer(file)
                assert (answer.status, answer.body) == (200, body)
                assert answer.headers["x-amzn-invoked-production-variant"] == "v"


def test_a_shadow_gets_marked_copies_and_answers_nobody(rig: Any, read_answer: Any) -> None:
    worker = rig.worker("b")
    worker.answer = lambda one: (200, b"text/csv\0\0b", b"the shadow's")
    start(rig, shadow("s", ["b"]))
    drive(rig, read_answer, 120, headers=b"X-Amzn-SageMaker-Inference-Id: i-1\r\nAccept: text/csv\r\n")
    assert settled(rig, 120) == {"mirrored": 120}
    until(lambda: rig.controller.total("invocations", variant="s") == 120)
    assert rig.controller.total("invocations", variant="v") == 120
    assert [one.body for one in worker.requests] == [b"1,2,3"] * 120
    head = wire.decode_request_head(worker.requests[0].head)
    assert head == wire.RequestHead("text/csv", "text/csv", "m", "", "i-1", variant="s")
    assert head.is_mirrored
    assert not any(wire.decode_request_head(one.head).is_mirrored for one in rig.workers["a"].requests)
    items = [item for item in rig.controller.items() if item["variant"] == "s" and "invocations" in item]
    assert sum(item["model_latency_us"][0] for item in items) == 120
    assert sum(item["overhead_latency_us"][0] for item in items) == 120
    assert sum(item["errors_4xx"] + item["errors_5xx"] for item in items) == 0


def test_copies_gather(rig: Any, read_answer: Any) -> None:
    worker = rig.worker("b")
    start(rig, shadow("s", ["b"]))
    drive(rig, read_answer, 200)
    settled(rig, 200)
    until(lambda: sum(worker.frames) == 200)
    assert len(worker.frames) <= len(rig.workers["a"].frames)


def test_a_shadow_is_no_target(rig: Any, read_answer: Any) -> None:
    rig.worker("b")
    start(rig, shadow("s", ["b"]))
    refused = rig.invoke(headers=b"X-Amzn-SageMaker-Target-Variant: s\r\n")
    assert (refused.status, refused.json["Message"]) == (400, "Variant s not found for Endpoint e.")
    drive(rig, read_answer, 1, headers=b"X-Amzn-SageMaker-Target-Variant: v\r\n")
    assert settled(rig, 1) == {"mirrored": 1}  # a targeted request is production's, a refused one is nobody's


def test_bodies_of_every_size_are_copied_byte_for_byte(rig: Any, read_answer: Any) -> None:
    worker = rig.worker("b")
    start(rig, shadow("s", ["b"]))
    sent = [os.urandom(size) for size in SIZES]
    for count, body in enumerate(sent, 1):
        drive(rig, read_answer, 1, body)
        until(lambda: len(worker.requests) == count, f"{len(body)} bytes")  # noqa: B023 - called at once
    assert [one.body for one in worker.requests] == sent
    assert settled(rig, len(sent)) == {"mirrored": len(sent)}


def binomial_p(successes: int, trials: int, probability: float) -> float:
    """Two-sided exact: the probability of everything no more likely than what was seen."""

    def log_pmf(count: int) -> float:
        return (
            math.lgamma(trials + 1)
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * math.log(probability)
            + (trials - count) * math.log1p(-probability)
        )

    seen = log_pmf(successes)
    return math.fsum(math.exp(p) for p in map(log_pmf, range(trials + 1)) if p <= seen + 1e-9)


def test_each_shadow_has_its_own_share(rig: Any, read_answer: Any) -> None:
    percents = [0, 1, 7, 50, 93, 100]
    for percent in percents:
        rig.worker(f"w{percent}")
    start(rig, *(shadow(f"s{percent}", [f"w{percent}"], percent / 100) for percent in percents))
    trials = 4000
    drive(rig, read_answer, trials)
    counts = {percent: settled(rig, trials, f"s{percent}") for percent in percents}
    assert counts[0] == {"sampling": trials}
    assert counts[100].get("sampling", 0) == 0
    for percent in (1, 7, 50, 93):
        drawn = trials - counts[percent]["sampling"]
        assert binomial_p(drawn, trials, percent / 100) > 1e-6, (percent, drawn)
    for percent in percents:
        mirrored = counts[percent].get("mirrored", 0)
        until(lambda: len(rig.workers[f"w{percent}"].requests) == mirrored)  # noqa: B023 - called at once


# --- sick shadows --------------------------------------------------------------------------------------


def crash_and_come_back(worker: Any, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        worker.kill()
        worker.start()


def slow(worker: Any) -> None:
    worker.delay_s = 0.3


def hangs(worker: Any) -> None:
    worker.answer = lambda one: None


def is_stopped(worker: Any) -> None:
    worker.answers_pings = False
    worker.delay_s = 3600.0


def answers_six_megabytes(worker: Any) -> None:
    worker.answer = lambda one: (200, b"text/csv", b"x" * 6_291_456)


def answers_too_much(worker: Any) -> None:
    worker.answer = lambda one: (200, b"text/csv", b"x" * 6_291_457)


def fails(worker: Any) -> None:
    worker.answer = lambda one: (500, b"text/plain\0\0primary", b"no")


def refuses(worker: Any) -> None:
    worker.answer = lambda one: (415, b"text/plain\0\0primary", b"no")


def dies(worker: Any) -> None:
    worker.answer = lambda one: "die"


def talks_nonsense(worker: Any) -> None:
    worker.answer = lambda one: [b"\0\0\0\1\x77"]


def announces_a_gigabyte(worker: Any) -> None:
    worker.answer = lambda one: [b"\x3f\xff\xff\xff\x11" + b"x" * 1000]


SICK = [
    slow, hangs, is_stopped, answers_six_megabytes, answers_too_much, fails, refuses, dies, talks_nonsense,
    announces_a_gigabyte,
]  # fmt: skip


@pytest.mark.parametrize("sickness", SICK, ids=lambda one: one.__name__)
def test_a_sick_shadow_leaves_production_alone(rig: Any, read_answer: Any, sickness: Any) -> None:
    sickness(rig.worker("b"))
    start(rig, shadow("s", ["b"]))
    count = 100 if sickness in (answers_six_megabytes, answers_too_much) else 600
    drive(rig, read_answer, count)
    settled(rig, count)
    until(lambda: rig.controller.total("invocations", variant="v") == count)
    assert rig.controller.total("errors_5xx", variant="v") == 0
    assert rig.controller.total("errors_4xx", variant="v") == 0


def test_a_dead_shadow_is_no_instance(rig: Any, read_answer: Any) -> None:
    start(rig, shadow("s", ["nobody"]))
    drive(rig, read_answer, 100)
    assert settled(rig, 100) == {"shutdown": 100}
    assert any(m["type"] == "suspect" for m in rig.controller.messages)


def test_a_shadow_that_crashes_all_the_time(rig: Any, read_answer: Any) -> None:
    worker = rig.worker("b")
    start(rig, shadow("s", ["b"]))
    stop = threading.Event()
    crashing = threading.Thread(target=crash_and_come_back, args=(worker, stop))
    crashing.start()
    try:
        drive(rig, read_answer, 3000)
    finally:
        stop.set()
        crashing.join()
    mirrored = settled(rig, 3000).get("mirrored", 0)
    until(lambda: rig.controller.total("invocations", variant="s") == mirrored, "every copy has an end")


def test_a_shadow_that_died_twice_gets_few_copies_though_none_was_lost(rig: Any, read_answer: Any) -> None:
    """What was answered before a death proves nothing: a worker can die when it is idle."""
    worker = rig.worker("b")
    start(rig, shadow("s", ["b"]))

    def one_is_mirrored() -> bool:
        before = outcomes(rig).get("mirrored", 0)
        drive(rig, read_answer, 1)
        sent[0] += 1
        return settled(rig, sent[0])["mirrored"] > before

    sent = [0]
    for death in (1, 2):
        until(one_is_mirrored)
        until(lambda: rig.controller.total("invocations", variant="s") == outcomes(rig)["mirrored"])
        worker.kill()
        until(lambda: sum(m["type"] == "suspect" for m in rig.controller.messages) == death)  # noqa: B023
        worker.start()
    mirrored = outcomes(rig)["mirrored"]
    drive(rig, read_answer, 400)
    counts = settled(rig, sent[0] + 400)
    assert counts["breaker"] >= 350 and counts["mirrored"] - mirrored <= 50
    assert rig.controller.total("errors_5xx", variant="s") == 0


def test_each_mirrored_copy_ends_once(rig: Any, read_answer: Any) -> None:
    hangs(rig.worker("b"))
    # Long enough for all 400 to be sent before the first copy is given up.
    start(rig, shadow("s", ["b"], timeout_s=5.0))
    drive(rig, read_answer, 400)
    counts = settled(rig, 400)
    # A queue that stays full for a second opens the breaker, too.
    assert counts["mirrored"] == 256 and counts["queue"] + counts.get("breaker", 0) == 144
    until(lambda: rig.controller.total("invocations", variant="s") == 256)
    assert rig.controller.total("errors_5xx", variant="s") == 256
    drive(rig, read_answer, 50)
    left_out = settled(rig, 450).get("breaker", 0) - counts.get("breaker", 0)
    assert left_out == 50  # five and more in a row without an answer
    assert len(rig.workers["b"].cancelled) == 256


def test_a_shadows_errors_are_answers(rig: Any, read_answer: Any) -> None:
    fails(rig.worker("b"))
    start(rig, shadow("s", ["b"]))
    for done in range(1, 5):
        drive(rig, read_answer, 50)
        until(lambda: rig.controller.total("errors_5xx", variant="s") == 50 * done)  # noqa: B023
    assert settled(rig, 200) == {"mirrored": 200}
    assert rig.controller.total("model_errors", variant="s") == 200


def test_a_silent_shadow_is_left_out(rig: Any, read_answer: Any) -> None:
    is_stopped(rig.worker("b"))
    start(rig, shadow("s", ["b"]))
    until(lambda: any(m["type"] == "suspect" for m in rig.controller.messages), "pings unanswered")
    drive(rig, read_answer, 10)
    assert settled(rig, 10) == {"breaker": 10}


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("sickness", [hangs, is_stopped, slow, answers_six_megabytes])
def test_a_sick_shadow_costs_bounded_memory(rig: Any, read_answer: Any, sickness: Any) -> None:
    sickness(rig.worker("b"))
    start(rig)
    pid = rig.process.pid
    body = os.urandom(1_000_000)
    for _ in range(3):
        drive(rig, read_answer, 40, body)
    alone_bytes = resident_bytes(pid)
    publish(rig, {"v": (1.0, ["a"])}, shadow("s", ["b"]))
    most_bytes = 0
    for _ in range(6):
        drive(rig, read_answer, 40, body)
        most_bytes = max(most_bytes, resident_bytes(pid))
    settled(rig, 240)
    assert most_bytes - alone_bytes <= 64 * 1024 * 1024


BLOCKED_SINK = """\
import sys, threading
from understudy.capture import segments
from understudy.dataplane.process import main
segments._write_all = lambda descriptor, data: threading.Event().wait()
sys.exit(main(sys.argv[1:]))
"""


def test_hung_shadows_and_a_blocked_sink_cost_64_mib_together(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    """6 MB bodies, three shadows that never answer, records that are never written: all of it is bounded."""
    for name in ("b", "c", "d"):
        hangs(rig.worker(name))
    program = tmp_path / "router.py"
    program.write_text(BLOCKED_SINK)
    rig.worker("a")
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a"])}})
    rig.start_router(extra=("--spool-dir", str(tmp_path / "spool")), program=(str(program),))
    rig.controller.acked(1)
    body = os.urandom(6_000_000)
    pid = rig.process.pid
    for _ in range(3):
        drive(rig, read_answer, 10, body)
    alone_bytes = resident_bytes(pid)
    table = rig.table({"e": {"v": (1.0, ["a"])}})
    table["endpoints"][0]["shadows"] = [shadow(f"s{one}", [one]) for one in ("b", "c", "d")]
    table["endpoints"][0]["capture"] = {
        "destination": "s3://bucket/prefix",
        "sampling_percent": 100.0,
        "inputs": True,
        "outputs": True,
        "csv_types": ["text/csv"],
        "json_types": [],
        "durable": False,
    }
    rig.controller.publish(table)
    rig.controller.acked(table["version"])
    most_bytes = 0
    for _ in range(6):
        drive(rig, read_answer, 5, body)
        most_bytes = max(most_bytes, resident_bytes(pid))
    counts = [settled(rig, 30, f"s{one}") for one in ("b", "c", "d")]
    assert sum(one.get("mirrored", 0) for one in counts) == 2, "16 MiB of 6 MB"
    assert most_bytes - alone_bytes <= 64 * 1024 * 1024


# --- tables --------------------------------------------------------------------------------------------


def test_shadows_come_change_and_go_and_are_promoted_under_load(rig: Any, read_answer: Any) -> None:
    rig.worker("b")
    start(rig)
    stop = threading.Event()
    done: list[str] = []
    failures: list[Any] = []

    def load() -> None:
        with rig.connect() as connection:
            file = connection.makefile("rb")
            while not stop.is_set():
                connection.sendall(request(b"1"))
                answer = read_answer(file)
                done.append(answer.headers.get("x-amzn-invoked-production-variant", ""))
                if (answer.status, answer.body) != (200, b"1"):
                    failures.append((answer.status, answer.body))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for share in (0.5, 1.0, 0.0, 1.0):
            publish(rig, {"v": (1.0, ["a"])}, shadow("s", ["b"], share))
            publish(rig, {"v": (1.0, ["a"])})
        publish(rig, {"v": (1.0, ["a"])}, shadow("s", ["b"]))
        publish(rig, {"s": (1.0, ["b"])})  # promoted: the same instance answers callers now
        before = len(done)
        until(lambda: len(done) > before + 100)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert done[-1] == "s"
    # No head that marked a copy is used for a caller's request.
    assert not wire.decode_request_head(rig.workers["b"].requests[-1].head).is_mirrored


def test_a_removed_shadow_does_not_keep_its_instance(rig: Any, read_answer: Any) -> None:
    hangs(rig.worker("b"))
    start(rig, shadow("s", ["b"]))
    drive(rig, read_answer, 10)
    settled(rig, 10)
    publish(rig, {"v": (1.0, ["a"])})
    ack = rig.controller.acked(2)
    assert ack["draining"] == ["e/s/f1/b"]
    until(lambda: any(m["type"] == "drained" and not m["draining"] for m in rig.controller.messages))
    assert rig.controller.total("invocations", variant="v") == 10


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_table_with_a_wrong_share_changes_nothing(rig: Any, read_answer: Any, share: float) -> None:
    rig.worker("b")
    start(rig, shadow("s", ["b"]))
    table = rig.table({"e": {"v": (1.0, ["a"])}})
    table["endpoints"][0]["shadows"] = [shadow("s", ["b"], share)]
    rig.controller.publish(table)
    drive(rig, read_answer, 10)
    assert settled(rig, 10) == {"mirrored": 10}


# --- the end -------------------------------------------------------------------------------------------


def test_the_last_outcomes_are_told_at_the_end(rig: Any, read_answer: Any) -> None:
    hangs(rig.worker("b"))
    start(rig, shadow("s", ["b"]))
    drive(rig, read_answer, 30)
    assert rig.stop_router() == 0
    assert settled(rig, 30) == {"mirrored": 30}
    assert rig.controller.total("errors_5xx", variant="s") == 30  # not answered before the end


def test_an_ending_router_makes_no_copies(rig: Any, read_answer: Any) -> None:
    rig.worker("b")
    start(rig, shadow("s", ["b"]))
    connections = [rig.connect() for _ in range(20)]
    files = [connection.makefile("rb") for connection in connections]

    def ask(number: int) -> None:
        connections[number].sendall(request(b"1"))
        assert read_answer(files[number]).status == 200

    for number in range(20):
        ask(number)
    rig.process.terminate()
    for number in range(20):
        ask(number)  # idle connections may still send for a moment
    assert rig.process.wait(20) == 0
    counts = settled(rig, 40)
    assert counts["mirrored"] >= 20 and counts["shutdown"] >= 1
    for file, connection in zip(files, connections, strict=True):
        file.close()
        connection.close()


# --- streams -------------------------------------------------------------------------------------------


def test_streams_are_copied_as_streams(rig: Any, read_answer: Any) -> None:
    worker = rig.worker("b")

    def stream(one: wire.Request) -> Any:
        assert wire.decode_request_head(one.head).wants_stream
        first = {"flags": wire.CHUNK_FIRST, "status": 200, "head": b"text/plain"}
        last = {"flags": wire.CHUNK_LAST, "status": 200, "head": b""}
        return [
            wire.encode_chunk(one.request_id, **first, data=b"par"),
            wire.encode_chunk(one.request_id, **last, data=b"ts"),
        ]

    def broken(one: wire.Request) -> Any:
        failed = {"flags": wire.CHUNK_FAILED, "status": 500, "head": b""}
        return [stream(one)[0], wire.encode_chunk(one.request_id, **failed, data=b"sorry")]

    worker.answer = stream
    start(rig, shadow("s", ["b"]))
    rig.workers["a"].answer = stream

    def once() -> None:
        with rig.connect() as connection:
            connection.sendall(request(b"1", stream=b"-response-stream"))
            assert b"par" in read_answer(connection.makefile("rb")).body

    once()
    until(lambda: rig.controller.total("invocations", variant="s") == 1)
    assert rig.controller.total("errors_5xx", variant="s") == 0
    worker.answer = broken
    once()
    until(lambda: rig.controller.total("errors_5xx", variant="s") == 1)
    assert settled(rig, 2) == {"mirrored": 2}
    assert wire.decode_request_head(worker.requests[0].head).flags == "sm"


# --- second answers of production's own -----------------------------------------------------------------


def second_answers(rig: Any, workers: list[str], share: float, sampling_percent: float, spool: Path) -> None:
    """One production variant that a share of its captured requests is sent to again."""
    for one in workers:
        rig.worker(one)
    table = rig.table({"e": {"v": (1.0, workers)}})
    table["endpoints"][0]["noise_share"] = share
    table["endpoints"][0]["capture"] = {
        "destination": "s3://bucket/prefix",
        "sampling_percent": sampling_percent,
        "inputs": True,
        "outputs": True,
        "csv_types": ["text/csv"],
        "json_types": [],
        "durable": False,
    }
    rig.controller.table = table
    rig.start_router(extra=("--spool-dir", str(spool)))
    rig.controller.acked(1)


def records(spool: Path, variant: str) -> dict[str, str]:
    """Read the answers of a variant's records by event id."""
    found = {}
    for path in sorted([*spool.glob("*.spool"), *spool.glob("*.open")]):
        for stream, some, _ in read_records(path.read_bytes()):
            for rendered in some.lines if stream[2] == variant else ():
                line = json.loads(rendered)
                found[line["eventMetadata"]["eventId"]] = line["captureData"]["endpointOutput"]["data"]
    return found


def test_second_answers_come_from_another_instance_under_the_same_event_id(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    second_answers(rig, ["a", "b"], 1.0, 100.0, tmp_path)
    for one in ("a", "b"):
        rig.workers[one].answer = lambda asked, name=one: (200, b"text/csv\0\0x", name.encode())
    with rig.connect() as connection:
        file = connection.makefile("rb")
        for _ in range(60):
            connection.sendall(request())
            assert read_answer(file).body in (b"a", b"b")
    counts = settled(rig, 60, "v-noise")  # few may be outstanding, and they gather before they leave
    copies = counts["mirrored"]
    assert counts.keys() <= {"mirrored", "queue"} and copies >= 16
    until(lambda: len(records(tmp_path, "v-noise")) == copies and len(records(tmp_path, "v")) == 60)
    first, again = records(tmp_path, "v"), records(tmp_path, "v-noise")
    assert again.keys() <= first.keys()
    assert all({first[event], again[event]} == {"a", "b"} for event in again)
    until(lambda: rig.controller.total("invocations", variant="v-noise") == copies)
    assert rig.controller.total("invocations", variant="v") == 60, "they are no invocations of production's"
    heads = [wire.decode_request_head(one.head) for name in ("a", "b") for one in rig.workers[name].requests]
    assert sorted(head.is_mirrored for head in heads) == [False] * 60 + [True] * copies
    assert {head.variant for head in heads} == {"v"}


def test_a_single_instance_answers_twice_and_unsampled_requests_are_not_repeated(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    second_answers(rig, ["a"], 0.5, 50.0, tmp_path)
    drive(rig, read_answer, 400)
    counts = settled(rig, 400, "v-noise")
    drawn = 400 - counts["sampling"]
    assert 50 < drawn < 150, "400 draws at a quarter"
    assert drawn == counts["mirrored"] + counts.get("queue", 0)
    until(lambda: len(records(tmp_path, "v-noise")) == counts["mirrored"])
    assert records(tmp_path, "v-noise").keys() <= records(tmp_path, "v").keys()


def test_a_hung_instance_that_is_asked_again_harms_nobody(rig: Any, read_answer: Any, tmp_path: Path) -> None:
    """Few second answers may be outstanding: production's instances work for callers."""
    second_answers(rig, ["a"], 1.0, 100.0, tmp_path)
    worker = rig.workers["a"]
    worker.answer = lambda one: (
        None if wire.decode_request_head(one.head).is_mirrored else (200, b"text/csv\0\0x", one.body)
    )
    drive(rig, read_answer, 200)
    counts = settled(rig, 200, "v-noise")
    assert counts["mirrored"] <= 32 + 1
    assert counts["queue"] + counts.get("breaker", 0) >= 200 - 33


def test_instances_that_go_take_their_second_connections_along(
    rig: Any, read_answer: Any, tmp_path: Path
) -> None:
    second_answers(rig, ["a", "b"], 1.0, 100.0, tmp_path)
    drive(rig, read_answer, 20)
    table = rig.table({"e": {"v": (1.0, ["a"])}})
    table["endpoints"][0]["capture"] = rig.controller.table["endpoints"][0]["capture"]
    rig.controller.publish(table)
    until(
        lambda: any(
            m["type"] in ("ack", "drained") and m["version"] == table["version"] and not m["draining"]
            for m in rig.controller.messages
        ),
        "the instance that goes is drained of second copies, too",
    )
    until(lambda: all(writer.is_closing() for writer in rig.workers["b"].writers))
    drive(rig, read_answer, 20)
    settled(rig, 20, "v-noise")  # those of the table before; this one asks for none

"""The load generator against a tiny server: what it counts, when it sends, what it calls an error."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.figures import paired_ratio
from bench.loadgen.engine import Load, run
from bench.loadgen.histogram import Histogram
from bench.loadgen.plans import Item, Request, read_plan, sign_plan, write_plan
from bench.loadgen.remote import run_load
from bench.loadgen.responses import MalformedResponse, ResponseReader
from bench.loadgen.signing import authorization
from bench.soak import verdicts
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

Render = Callable[..., bytes]


def plan_of(tmp_path: Path, requests: list[Request]) -> list[Item]:
    write_plan(tmp_path / "plan.jsonl", requests)
    return read_plan(tmp_path / "plan.jsonl", "localhost")


@pytest.fixture
def echoes(tmp_path: Path) -> list[Item]:
    return plan_of(tmp_path, [Request("/x", f"row {number}") for number in range(7)])


def load(tiny: Any, **fields: Any) -> Load:
    return Load(**{"host": "127.0.0.1", "port": tiny.port, "connections": 4, "duration_s": 0.3, **fields})


# --- counts ------------------------------------------------------------------------------------------


def test_closed_loop_counts_every_request_once_and_goes_round_the_plan(tiny: Any, echoes: list[Item]) -> None:
    result = run(load(tiny), echoes)
    assert result["errors"] == {} and result["wrong"] == 0
    assert result["ok"] == result["sent"] == len(tiny.requests) == result["latency"]["count"] > 0
    assert tiny.connections == 4 and result["reconnects"] == 0
    seen = Counter(tiny.requests)
    assert set(seen) == {item.request.body.encode() for item in echoes}
    assert max(seen.values()) - min(seen.values()) <= 1
    assert result["per_s"] == pytest.approx(result["in_window"] / 0.3)


def test_warm_up_is_sent_and_not_counted(tiny: Any, echoes: list[Item]) -> None:
    told: list[str] = []
    result = run(load(tiny, warm_up_s=0.2), echoes, tell=told.append)
    assert told == ["window open", "window closed"]
    assert 0 < result["ok"] == result["sent"] < len(tiny.requests)


def test_open_loop_sends_as_many_as_a_poisson_process_gives_whatever_the_server_does(
    tiny: Any, echoes: list[Item]
) -> None:
    tiny.delay_s = 0.2  # a closed loop of 4 connections would manage 20 a second
    result = run(load(tiny, rate_per_s=400.0, duration_s=1.0), echoes)
    assert result["errors"] == {}
    assert abs(result["sent"] - 400) < 5 * 400**0.5
    assert result["ok"] == result["sent"] == len(tiny.requests)
    assert tiny.connections > 4


def test_the_same_seed_gives_the_same_number_of_arrivals(tiny: Any, echoes: list[Item]) -> None:
    counts = [run(load(tiny, rate_per_s=200.0, seed=seed), echoes)["sent"] for seed in (3, 3)]
    assert counts[0] == counts[1]


# --- times -------------------------------------------------------------------------------------------


def test_open_loop_counts_latency_from_the_moment_at_which_a_request_was_due(
    tiny: Any, echoes: list[Item]
) -> None:
    """One connection, a server that takes 20 ms, 100 requests a second: the queue is in the latencies."""
    tiny.delay_s = 0.02
    fields = {"connections": 1, "max_connections": 1, "duration_s": 0.6}
    queued = run(load(tiny, rate_per_s=100.0, **fields), echoes)
    alone = run(load(tiny, **fields), echoes)
    assert queued["errors"] == alone["errors"] == {}
    assert queued["waited_for_connection"] > 0
    # At most 50 a second leave: what came due last waited for all that came before it.
    assert queued["latency"]["max_us"] > 5 * alone["latency"]["p50_us"]
    assert queued["latency"]["max_us"] >= queued["lateness"]["max_us"] > alone["latency"]["p50_us"]
    assert queued["lateness"]["count"] == queued["sent"]
    assert alone["lateness"] is None


# --- errors ------------------------------------------------------------------------------------------


def test_a_wrong_answer_is_found_and_shown(tiny: Any, echoes: list[Item], render: Render) -> None:
    tiny.answer = lambda body: render(b"row 9" if body == b"row 3" else body)
    result = run(load(tiny), echoes)
    assert result["wrong"] == result["errors"]["wrong answer"] == Counter(tiny.requests)[b"row 3"]
    assert result["ok"] == result["sent"] - result["wrong"]
    assert "row 9" in result["examples"][0] and "row 3" in result["examples"][0]


def test_a_wrong_answer_in_the_warm_up_counts_too(tiny: Any, echoes: list[Item], render: Render) -> None:
    first: list[bytes] = []

    def answer(body: bytes) -> bytes:
        first.append(body)
        return render(b"rubbish" if len(first) == 1 else body)

    tiny.answer = answer
    assert run(load(tiny, warm_up_s=0.1), echoes)["wrong"] == 1


def test_refusals_are_errors_by_status_with_latencies_of_their_own(
    tiny: Any, echoes: list[Item], render: Render
) -> None:
    tiny.answer = lambda body: render(body, status="503 Busy") if body == b"row 2" else render(body)
    result = run(load(tiny), echoes)
    refused = Counter(tiny.requests)[b"row 2"]
    assert result["errors"] == {"status 503": refused}
    assert result["refused"]["count"] == refused
    assert result["latency"]["count"] == result["ok"] == result["sent"] - refused
    assert result["wrong"] == 0


def test_hanging_up_a_timeout_and_rubbish_are_told_apart(
    tiny: Any, echoes: list[Item], render: Render
) -> None:
    tiny.answer = lambda body: None
    assert set(run(load(tiny), echoes)["errors"]) <= {"closed", "reset"}
    tiny.answer = lambda body: b"SSH-2.0-OpenSSH_9.2\r\n\r\n" + b"x" * 20
    assert set(run(load(tiny), echoes)["errors"]) == {"malformed"}
    tiny.answer = render
    tiny.delay_s = 30.0
    result = run(load(tiny, timeout_s=0.1), echoes)
    assert result["errors"] == {"timeout": result["sent"]} and result["ok"] == 0


def test_nobody_listening_is_a_connect_error(echoes: list[Item]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and nobody accepts
        result = run(Load("127.0.0.1", bound.getsockname()[1], 2, 0.2), echoes)
    assert set(result["errors"]) == {"connect econnrefused"}
    assert result["sent"] == 0


def test_an_answer_that_closes_is_right_and_the_next_goes_on_a_new_connection(
    tiny: Any, echoes: list[Item], render: Render
) -> None:
    tiny.answer = lambda body: render(body, more="Connection: close\r\n")
    result = run(load(tiny), echoes)
    assert result["errors"] == {}
    assert result["ok"] == result["reconnects"] > 4


def test_an_answer_may_be_anything_that_contains_what_is_expected(
    tiny: Any, tmp_path: Path, render: Render
) -> None:
    plan = plan_of(tmp_path, [Request("/x", "q", contains='"data":[0.5]')])
    tiny.answer = lambda body: render(b'{"id":"%d","data":[0.5]}' % len(tiny.requests))
    assert run(load(tiny), plan)["errors"] == {}
    tiny.answer = lambda body: render(b'{"data":[0.51]}')
    assert run(load(tiny), plan)["ok"] == 0


def test_large_bodies_are_compared_byte_by_byte(tiny: Any, tmp_path: Path, render: Render) -> None:
    content = bytes(range(256)) * 16_384
    (tmp_path / "body").write_bytes(content)
    plan = plan_of(tmp_path, [Request("/x", body_file=str(tmp_path / "body"))])
    result = run(load(tiny, connections=1), plan)
    assert result["ok"] == result["sent"] >= 1 and result["errors"] == {}
    tiny.answer = lambda body: render(body[:-1] + b"?")
    assert run(load(tiny, connections=1), plan)["ok"] == 0


# --- its own process -----------------------------------------------------------------------------------


def test_another_process_gives_the_same_and_says_when_the_window_opens(
    tiny: Any, echoes: list[Item], tmp_path: Path
) -> None:
    moments: list[str] = []
    result = run_load(
        load(tiny, warm_up_s=0.1),
        tmp_path / "plan.jsonl",
        at_open=lambda: moments.append("open"),
        at_close=lambda: moments.append("close"),
    )
    assert moments == ["open", "close"]
    assert result["ok"] == result["sent"] > 0 and result["errors"] == {}
    assert json.loads(json.dumps(result)) == result


# --- parts -------------------------------------------------------------------------------------------


def test_percentiles_are_exact_to_one_percent() -> None:
    histogram, other = Histogram(), Histogram()
    values = [round(1.0007**number) for number in range(1, 20_000)]
    for at, value in enumerate(values):
        (histogram if at % 2 else other).add(value)
    histogram.merge(other)
    for percent in (1.0, 50.0, 90.0, 99.0, 99.9, 100.0):
        exact = sorted(values)[max(0, -(-len(values) * percent // 100).__trunc__() - 1)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.011, abs=1.0)
    assert (histogram.count, histogram.max_us) == (len(values), max(values))
    assert Histogram().percentile(50.0) == 0.0


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_answers_in_any_pieces(step: int) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    reader = ResponseReader()
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    assert [reader.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (reader.status, reader.body, reader.closes) == (200, b"abcde", False)


def test_more_than_an_answer_is_malformed() -> None:
    with pytest.raises(MalformedResponse):
        ResponseReader().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab")


@pytest.mark.parametrize("path", ["/endpoints/one/invocations", "/endpoints/a%20b/invocations"])
def test_signatures_are_those_of_botocore(path: str) -> None:
    request = AWSRequest("POST", "http://localhost:8080" + path, {"Content-Type": "text/csv"}, b"1,2,3")
    request.headers["Host"] = "localhost:8080"
    signer = SigV4Auth(Credentials("AKIAEXAMPLE", "secret"), "sagemaker", "us-east-1")
    signer.add_auth(request)
    signed = str(request.headers["Authorization"]).partition("SignedHeaders=")[2].partition(",")[0].split(";")
    ours = authorization(
        path,
        {name: str(request.headers[name]) for name in signed},
        b"1,2,3",
        access_key_id="AKIAEXAMPLE",
        secret_access_key="secret",
        region="us-east-1",
        service="sagemaker",
    )
    assert ours == request.headers["Authorization"]


def test_no_two_signed_requests_are_the_same(echoes: list[Item]) -> None:
    secret = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "secret", "region": "us-east-1"}
    signed = sign_plan(echoes, "localhost", copies=3, **secret)
    assert len(signed) == len({item.data for item in signed}) == 3 * len(echoes)
    assert all(b"\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/" in item.data for item in signed)


def test_ratios_are_taken_round_by_round() -> None:
    ratio = paired_ratio([10.0, 30.0], [5.0, 10.0])
    assert ratio is not None and (ratio.median, ratio.low, ratio.high) == (2.5, 2.0, 3.0)
    assert paired_ratio([1.0], [0.0]) is None and paired_ratio([], []) is None


def test_soak_tells_a_leak_from_noise() -> None:
    million = 1e6
    noisy = [(float(at), (100 + (at * 7 % 5) / 10) * million) for at in range(100)]
    leaking = [(at_s, value + at_s * 0.1 * million) for at_s, value in noisy]
    early = [(at_s, value + min(at_s, 20.0) * million) for at_s, value in noisy]
    found = verdicts({"flat": noisy, "leak": leaking, "warming": early, "short": noisy[:1]})
    assert {role: verdict["flat"] for role, verdict in found.items()} == {
        "flat": True, "leak": False, "warming": True, "short": False,
    }  # fmt: skip

"""The whole request path through a real router process, fake workers and a fake controller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from understudy.dataplane.instances import PING_EVERY_S
from understudy.worker import wire


def client(rig: Any, *, secret: str = "secret", read_timeout_s: float = 30.0) -> Any:
    made = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{rig.port}",
        region_name="us-west-2",
        aws_access_key_id="AKIATEST",
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=read_timeout_s),
    )
    rig.closed_with.append(made)
    return made


def request(body: bytes = b"1", endpoint: str = "e", headers: bytes = b"") -> bytes:
    return (
        b"POST /endpoints/%b/invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (endpoint.encode(), headers, len(body), body)
    )


def exchange(rig: Any, *parts: bytes) -> bytes:
    """Send raw bytes; return all that comes until the router closes."""
    with rig.connect() as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def until(check: Any, what: str = "", deadline_s: float = 20.0) -> Any:
    end_s = time.monotonic() + deadline_s
    while not (value := check()):
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return value


# --- answers -----------------------------------------------------------------------------------------


def test_an_invocation_is_answered(served: Any) -> None:
    answer = served.invoke(b"1,2,3")
    assert (answer.status, answer.body) == (200, b"1,2,3")
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["x-amzn-invoked-production-variant"] == "v"
    assert len(answer.headers["x-amzn-requestid"]) == 36


def test_boto3_with_every_header(served: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: (200, b"text/csv\0attr=1\0primary", request.body)
    answer = client(served).invoke_endpoint(
        EndpointName="e",
        Body=b"1,2",
        ContentType="text/csv",
        Accept="application/json",
        CustomAttributes="a=b",
        InferenceId="id-1",
        TargetVariant="v",
    )
    assert answer["Body"].read() == b"1,2"
    assert (answer["ContentType"], answer["CustomAttributes"]) == ("text/csv", "attr=1")
    assert answer["InvokedProductionVariant"] == "v"
    head = wire.decode_request_head(worker.requests[0].head)
    assert head == wire.RequestHead("text/csv", "application/json", "", "a=b", "id-1", variant="v")


def test_unknown_names_have_the_wording_of_aws(served: Any) -> None:
    runtime = client(served)
    with pytest.raises(runtime.exceptions.ValidationError) as unknown:
        runtime.invoke_endpoint(EndpointName="nope", Body=b"1")
    assert unknown.value.response["Error"]["Message"] == "Endpoint nope of account 123456789012 not found."
    with pytest.raises(runtime.exceptions.ValidationError) as unknown:
        runtime.invoke_endpoint(EndpointName="e", Body=b"1", TargetVariant="w")
    assert unknown.value.response["Error"]["Message"] == "Variant w not found for Endpoint e."
    with pytest.raises(runtime.exceptions.ValidationError) as unknown:
        runtime.invoke_endpoint(EndpointName="e", Body=b"1", InferenceId="i" * 65)
    assert "inferenceId" in unknown.value.response["Error"]["Message"]


@pytest.mark.parametrize(("status", "kind"), [(415, "client"), (500, "server")])
def test_the_models_own_errors(served: Any, status: int, kind: str) -> None:
    served.workers["a"].answer = lambda request: (status, b"text/plain\0\0primary", b"bad input")
    runtime = client(served)
    with pytest.raises(runtime.exceptions.ModelError) as failed:
        runtime.invoke_endpoint(EndpointName="e", Body=b"1")
    response = failed.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert (response["OriginalStatusCode"], response["OriginalMessage"]) == (status, "bad input")
    assert response["Error"]["Message"] == (
        f'Received {kind} error ({status}) from primary with message "bad input". See'
        " https://us-west-2.console.aws.amazon.com/cloudwatch/home?region=us-west-2"
        "#logEventViewer:group=/aws/sagemaker/Endpoints/e in account 123456789012 for more information."
    )


def test_a_workers_unsafe_head_reaches_nobody(served: Any) -> None:
    served.workers["a"].answer = lambda request: (200, b"text/csv\r\nSet-Cookie: x", b"1")
    answer = served.invoke()
    assert answer.status == 424
    assert "set-cookie" not in answer.headers


def test_answers_over_the_limit_are_model_errors(served: Any) -> None:
    served.workers["a"].answer = lambda request: (200, b"text/csv", b"x" * 6_291_457)
    assert served.invoke().status == 424
    served.workers["a"].answer = lambda request: (200, b"text/csv", b"x" * 6_291_456)
    assert len(served.invoke().body) == 6_291_456


def test_the_boundary_of_six_megabytes(served: Any) -> None:
    runtime = client(served)
    body = os.urandom(6_291_456)
    assert runtime.invoke_endpoint(EndpointName="e", Body=body)["Body"].read() == body
    with pytest.raises(runtime.exceptions.ValidationError) as refused:
        runtime.invoke_endpoint(EndpointName="e", Body=body + b"x")
    assert "6291456" in refused.value.response["Error"]["Message"]
    with pytest.raises(runtime.exceptions.ValidationError):
        runtime.invoke_endpoint(EndpointName="e", Body=body * 5)
    assert len(served.workers["a"].requests) == 1


# --- framing -----------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(served: Any, read_answer: Any) -> None:
    served.workers["a"].delay_s = 0.001
    with served.connect() as connection:
        connection.sendall(b"".join(request(b"%d" % number) for number in range(200)))
        file = connection.makefile("rb")
        assert [read_answer(file).body for _ in range(200)] == [b"%d" % number for number in range(200)]


def test_a_request_in_single_bytes(served: Any, read_answer: Any) -> None:
    with served.connect() as connection:
        for byte in request(b"abc"):
            connection.sendall(bytes((byte,)))
        assert read_answer(connection.makefile("rb")).body == b"abc"


def test_chunked_requests(served: Any, read_answer: Any) -> None:
    start = b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(start + b"3\r\nabc\r\n" + b"2\r\nde\r\n0\r\nX: y\r\n\r\n" + request(b"next"))
        file = connection.makefile("rb")
        assert [read_answer(file).body for _ in range(2)] == [b"abcde", b"next"]
    body = b"x" * 100_000
    with served.connect() as connection:
        connection.sendall(start + b"".join(b"%x\r\n%b\r\n" % (len(body), body) for _ in range(70)))
        answer = read_answer(connection.makefile("rb"))
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (400, "ValidationError")


def test_expectations_are_met(served: Any) -> None:
    with served.connect() as connection:
        connection.sendall(request(b"abc", headers=b"Expect: 100-continue\r\n")[:-3])
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(1000).endswith(b"abc")
    large = request(b"", headers=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 99999999")
    assert exchange(served, large).startswith(b"HTTP/1.1 400 ")


def test_connections_end_when_asked(served: Any) -> None:
    raw = exchange(served, request(b"a", headers=b"Connection: close\r\n"))
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in raw
    old = b"POST /endpoints/e/invocations HTTP/1.0\r\nContent-Length: 1\r\n\r\na"
    assert exchange(served, old).endswith(b"\r\n\r\na")


@pytest.mark.parametrize(
    "raw",
    [
        (
            b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        ),
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\n\nGET /smuggled HTTP/1.1\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"a" * 20_000,
        b"POST /endpoints/e/invocations#a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_smuggling_ends_the_connection(served: Any, raw: bytes) -> None:
    answer = exchange(served, raw)
    assert answer[:10] == b"HTTP/1.1 4"
    assert answer.count(b"x-amzn-RequestId") == 1
    assert not any(b"smuggled" in seen for seen in served.controller.http_requests)
    assert not served.workers["a"].requests
    assert served.invoke(b"after").status == 200


# --- retry, timeout, death -------------------------------------------------------------------------------


def test_a_dead_workers_requests_are_answered_by_another(rig: Any) -> None:
    first, second = rig.worker("a"), rig.worker("b")
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a", "b"])}})
    rig.start_router()
    rig.controller.acked(1)
    first.answer = second.answer = lambda request: "die"
    hit = threading.Event()

    def die_once(request: Any) -> Any:
        hit.set()
        survivor = second if not first.requests or first.requests[-1] is not request else first
        for worker in (first, second):
            worker.answer = worker.echo
        return "die" if survivor else None

    first.answer = second.answer = die_once
    answer = rig.invoke(b"precious")
    assert hit.is_set()
    assert (answer.status, answer.body) == (200, b"precious")
    until(lambda: any(m["type"] == "suspect" for m in rig.controller.messages), "suspect")


def test_a_container_that_died_behind_its_worker_counts_as_a_dead_worker(rig: Any) -> None:
    """A pipeline's or an own server's process: the worker itself lives on a moment and says status 0."""
    broken, sound = rig.worker("a"), rig.worker("b")
    gone = (wire.STATUS_MODEL_GONE, b"text/plain\0\0second", b"The container's process is gone.")
    broken.answer = lambda request: gone
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a", "b"])}})
    rig.start_router()
    rig.controller.acked(1)
    answers = [rig.invoke(b"same") for _ in range(6)] + [rig.invoke(b"%d" % number) for number in range(20)]
    assert [answer.status for answer in answers] == [200] * 26
    assert broken.requests and sound.requests
    sound.answer = lambda request: gone
    answer = rig.invoke(b"other")
    assert (answer.status, answer.json["OriginalStatusCode"]) == (424, 0)
    assert "from second with message" in answer.json["Message"]


def test_the_only_workers_death_is_the_models_error_and_it_comes_back(served: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: "die"
    answer = served.invoke(b"q")
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (424, "ModelError")
    assert b"process ended" in answer.body
    assert served.invoke().status == 503
    worker.answer = worker.echo
    worker.start()
    until(lambda: served.invoke().status == 200, "the router connects again")


def test_a_request_of_death_is_not_tried_a_third_time(rig: Any) -> None:
    workers = [rig.worker(name) for name in "abc"]
    for worker in workers:
        worker.answer = lambda request, worker=worker: (
            "die" if request.body == b"poison" else worker.echo(request)
        )
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a", "b", "c"])}})
    rig.start_router()
    rig.controller.acked(1)
    assert rig.invoke(b"poison").status == 424
    assert rig.invoke(b"poison").status == 424
    assert sum(request.body == b"poison" for worker in workers for request in worker.requests) == 2
    assert rig.invoke(b"harmless").status == 200


def test_a_slow_model_is_given_up(rig: Any) -> None:
    worker = rig.worker("a")
    worker.answer = lambda request: None
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a"])}}, timeout_s=0.3)
    rig.start_router()
    rig.controller.acked(1)
    answer = rig.invoke(b"slow")
    assert answer.status == 424
    assert answer.json["OriginalStatusCode"] == 0
    assert (
        'Received server error (0) from primary with message "Your invocation timed out while waiting for a'
        " response from container primary. Review the latency metrics for each container in Amazon"
        ' CloudWatch, resolve the issue, and try again.". See' in answer.json["Message"]
    )
    until(lambda: worker.cancelled == [worker.requests[0].request_id], "CANCEL")


def test_a_caller_that_left_is_cancelled(served: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: None
    with served.connect() as connection:
        connection.sendall(request(b"x"))
        until(lambda: worker.requests, "the request")
    until(lambda: worker.cancelled == [worker.requests[0].request_id], "CANCEL")
    until(lambda: served.controller.total("invocations") == 1, "it is counted")


def test_a_silent_worker_is_left_out(rig: Any) -> None:
    silent, lively = rig.worker("a"), rig.worker("b")
    silent.answers_pings = False
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a", "b"])}})
    rig.start_router()
    rig.controller.acked(1)
    until(lambda: any(m["type"] == "suspect" for m in rig.controller.messages), "suspect")
    before = len(silent.requests)
    for _ in range(20):
        assert rig.invoke().status == 200
    assert (len(silent.requests), len(lively.requests) >= 20) == (before, True)
    # It goes on to tell for how long, so that control can replace who hangs for good.
    told = until(
        lambda: [m["silent_s"] for m in list(rig.controller.messages) if m["type"] == "suspect"][1:], "again"
    )
    assert told[0] > 3 * PING_EVERY_S


def test_what_was_sent_before_a_half_close_is_answered_whole(served: Any) -> None:
    with served.connect() as connection:
        connection.sendall(request(b"1") + request(b"2") + request(b"3") + request(b"cut off")[:-3])
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.endswith(b"\r\n\r\n3")


def test_who_does_not_read_gets_no_further_answers_made(served: Any, read_answer: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda one: (200, b"text/plain", one.body + b"x" * 4_000_000)
    with served.connect() as connection:
        connection.sendall(b"".join(request(b"%03d" % number) for number in range(100)))
        until(lambda: len(worker.requests) >= 2, "the first answers")
        for _ in range(20):  # served on another connection meanwhile
            assert served.invoke(b"other").status == 200
        assert len([one for one in worker.requests if one.body != b"other"]) < 10
        with connection.makefile("rb") as file:
            for number in range(100):
                assert read_answer(file).body[:3] == b"%03d" % number


def test_full_queues_refuse_fast(served: Any, read_answer: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: None
    body = b"x" * 6_000_000
    connections = [served.connect() for _ in range(12)]
    for connection in connections:
        connection.sendall(request(body))
    until(lambda: len(worker.requests) >= 11, "the queue is full")
    answer = served.invoke(b"one more")
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (503, "ServiceUnavailable")
    for connection in connections:
        connection.close()


# --- routing ---------------------------------------------------------------------------------------------


def test_weights_and_targets(rig: Any, read_answer: Any) -> None:
    for name in "abz":
        rig.worker(name)
    rig.controller.table = rig.table({"e": {"z": (0.0, ["z"]), "a": (3.0, ["a"]), "b": (1.0, ["b"])}})
    rig.start_router()
    rig.controller.acked(1)
    counts: Counter[str] = Counter()
    with rig.connect() as connection:
        connection.sendall(request() * 4000)
        file = connection.makefile("rb")
        for _ in range(4000):
            counts[read_answer(file).headers["x-amzn-invoked-production-variant"]] += 1
    assert counts["z"] == 0
    assert not rig.workers["z"].requests
    assert abs(counts["a"] - 3000) < 200  # seven standard deviations
    answer = rig.invoke(headers=b"X-Amzn-SageMaker-Target-Variant: z\r\n")
    assert answer.headers["x-amzn-invoked-production-variant"] == "z"


def test_swaps_under_load_fail_and_misroute_nothing(rig: Any, read_answer: Any) -> None:
    """Blue and green change places all the time; each old worker is killed once it is drained."""
    worker = rig.worker("w1")
    worker.delay_s = 0.002
    rig.controller.table = rig.table({"e": {"v": (1.0, ["w1"])}, "other": {"v": (1.0, ["w1"])}})
    rig.start_router()
    rig.controller.acked(1)
    stop, failures, done = threading.Event(), [], []

    def load(number: int) -> None:
        with rig.connect() as connection:
            file = connection.makefile("rb")
            count = 0
            while not stop.is_set():
                body = b"%d-%d" % (number, count)
                connection.sendall(request(body))
                answer = read_answer(file)
                if (answer.status, answer.body) != (200, body):
                    failures.append((answer.status, answer.body, body))
                count += 1
            done.append(count)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for step in range(2, 14):
        fresh = rig.worker(f"w{step}")
        fresh.delay_s = 0.002
        ack = rig.route({"e": {"v": (1.0, [f"w{step}"])}, "other": {"v": (1.0, [f"w{step}"])}})
        version, remaining = ack["version"], ack["draining"]
        if remaining:
            until(
                lambda version=version: any(
                    m["type"] == "drained" and m["version"] == version and not m["draining"]
                    for m in list(rig.controller.messages)
                ),
                f"version {version} drained",
            )
        rig.workers[f"w{step - 1}"].kill()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert min(done) > 0
    until(lambda: rig.controller.total("invocations") == sum(done), f"{sum(done)} are counted")


def test_a_drained_instance_is_told(served: Any) -> None:
    old, new = served.workers["a"], served.worker("b")
    held: list[Any] = []
    old.answer = lambda request: held.append(request)
    connection = served.connect()
    connection.sendall(request(b"long"))
    until(lambda: held, "the request")
    ack = served.route({"e": {"v": (1.0, ["b"])}})
    assert ack["draining"] == ["e/v/f1/a"]
    assert served.invoke(b"new").status == 200
    assert len(new.requests) == 1

    async def answer() -> None:
        frame = wire.encode_responses([(held[0].request_id, 200, b"text/csv", b"late")])
        old.writers[0].write(frame)

    served.call(answer())
    assert connection.recv(4096).endswith(b"late")
    connection.close()
    until(
        lambda: any(m["type"] == "drained" and m["draining"] == [] for m in served.controller.messages),
        "drained",
    )


def test_an_instance_that_cannot_be_reached_is_acked_and_suspected(served: Any) -> None:
    served.route({"e": {"v": (1.0, ["a", "missing"])}})
    until(
        lambda: any(m.get("instance_id") == "e/v/f1/missing" for m in served.controller.messages), "suspect"
    )
    for _ in range(10):
        assert served.invoke().status == 200


def test_it_serves_without_a_controller(rig: Any) -> None:
    rig.controller.stop()
    rig.worker("a")
    rig.store_table(rig.table({"e": {"v": (1.0, ["a"])}}))
    rig.start_router()
    assert rig.invoke(b"x").body == b"x"


def test_without_any_table_it_says_so(rig: Any) -> None:
    rig.controller.stop()
    (rig.run_dir / "table.json").write_text('{"sha256": "00", "table": {"version": 1, "endpoints": []}}')
    rig.start_router()
    assert rig.invoke().status == 503


def test_what_gathered_goes_in_one_frame(served: Any) -> None:
    worker = served.workers["a"]
    release = asyncio.Event()
    original = worker._answer

    async def held(requests: Any, writer: Any) -> None:
        await release.wait()
        await original(requests, writer)

    worker._answer = held
    connections = [served.connect() for _ in range(30)]
    connections[0].sendall(request(b"first"))
    until(lambda: worker.frames == [1], "the first frame")
    for connection in connections[1:]:
        connection.sendall(request(b"later"))
    served.loop.call_soon_threadsafe(release.set)
    for connection in connections:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.close()
    assert sum(worker.frames) == 30
    assert len(worker.frames) < 30


# --- metrics ---------------------------------------------------------------------------------------------


def test_metrics_are_exact_across_controllers(served: Any) -> None:
    controller = served.controller
    worker = served.workers["a"]
    worker.answer = lambda request: (
        (int(request.body), b"\0\0primary", b"") if request.body in (b"400", b"500") else worker.echo(request)
    )
    bodies = [b"1", b"400", b"500", b"2", b"3"]
    controller.acks_metrics = False
    for body in bodies:
        served.invoke(body)
    until(lambda: controller.recorded, "metrics")
    first = dict(controller.recorded)
    controller.stop()
    for body in bodies:
        served.invoke(body)
    assert served.invoke(endpoint="nope").status == 400
    controller.acks_metrics = True
    controller.start()
    until(lambda: controller.total("invocations") == 10, f"ten are counted: {controller.items()}")
    assert all(controller.recorded[key] == data for key, data in first.items()), "resent unchanged"
    assert controller.total("errors_4xx") == controller.total("errors_5xx") == 2
    assert controller.total("model_errors") == 4
    assert controller.total("per_instance") == 10.0
    assert sum(item["model_latency_us"][0] for item in controller.items() if "config" in item) == 10
    assert {item["config"] for item in controller.items() if "config" in item} == {"e-config"}
    until(lambda: controller.refused() == {"ValidationError": 1}, "the refusal")


def test_the_last_counts_are_sent_at_the_end(served: Any) -> None:
    for _ in range(7):
        served.invoke()
    assert served.stop_router() == 0
    assert served.controller.total("invocations") == 7


# --- start and end ---------------------------------------------------------------------------------------


def test_sigterm_finishes_what_is_in_work(served: Any, read_answer: Any) -> None:
    worker = served.workers["a"]
    worker.delay_s = 0.4
    with served.connect() as busy, served.connect() as idle:
        idle.sendall(request(b"warm"))
        idle_file = idle.makefile("rb")
        read_answer(idle_file)
        busy.sendall(request(b"working"))
        until(lambda: len(worker.requests) == 2, "the request")
        served.process.send_signal(signal.SIGTERM)
        answer = read_answer(busy.makefile("rb"))
        assert (answer.body, answer.headers["connection"]) == (b"working", "close")
        assert idle_file.read() == b""
    assert served.process.wait(20) == 0


def test_the_end_of_the_lifeline_ends_it(served: Any) -> None:
    os.close(served.lifeline_write)
    served.lifeline_write = -1
    assert served.process.wait(20) == 0


def test_a_successor_takes_over_the_socket(served: Any) -> None:
    served.process.kill()
    served.process.wait()
    connection = served.connect()  # into the backlog: nobody accepts yet
    connection.sendall(request(b"patient"))
    served.start_router()
    assert connection.recv(4096).endswith(b"patient")
    connection.close()


# --- forwarding ------------------------------------------------------------------------------------------


def test_other_requests_go_to_the_controller(served: Any, read_answer: Any) -> None:
    with served.connect() as connection:
        connection.sendall(
            b"GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-Custom: y\r\nConnection: keep-alive\r\n\r\n"
            + request(b"between")
            + b"POST /endpoints/e/async-invocations HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
        )
        file = connection.makefile("rb")
        assert [read_answer(file).body for _ in range(3)] == [b"controller", b"between", b"controller"]
    first, second = served.controller.http_requests
    assert first.startswith(b"GET /a%20b?x=1 HTTP/1.1\r\n")
    assert b"x-custom: y\r\n" in first
    assert b"keep-alive" not in first
    assert b"content-length: 2\r\n" in second


def test_without_controller(served: Any) -> None:
    served.controller.stop()
    health = exchange(served, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
    assert health.startswith(b"HTTP/1.1 200")
    assert b'"degraded"' in health
    other = exchange(served, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    assert other.startswith(b"HTTP/1.1 503")
    assert b"ServiceUnavailable" in other
    assert served.invoke().status == 200


def test_fifty_megabytes_both_ways(served: Any, read_answer: Any) -> None:
    size = 50 * 1024 * 1024

    async def mirror(head: bytes, reader: Any, writer: Any) -> None:
        assert b"content-length: %d\r\n" % size in head
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = size
        while left:
            data = await reader.read(min(left, 1 << 16))
            left -= len(data)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    served.controller.http = mirror
    body = os.urandom(1 << 20) * 50
    received: list[Any] = []
    with served.connect() as connection:
        file = connection.makefile("rb")
        reading = threading.Thread(target=lambda: received.append(read_answer(file)))
        reading.start()
        connection.sendall(b"PUT /bucket/key HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        connection.sendall(body)
        reading.join(60)
    assert received[0].body == body


def test_a_slow_reader_holds_the_controller_back(served: Any) -> None:
    """The router must not swallow an answer that nobody reads."""
    written = [0]

    async def flood(head: bytes, reader: Any, writer: Any) -> None:
        size = 200 * 1024 * 1024
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written[0] < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            written[0] += 65536

    served.controller.http = flood
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        steady: list[int] = []

        def is_steady() -> bool:
            steady.append(written[0])
            return len(steady) > 50 and steady[-1] == steady[-50] > 0

        until(is_steady, "the flow stands still")
        assert written[0] < 64 * 1024 * 1024


def test_the_controllers_death_within_an_answer_is_no_clean_end(served: Any) -> None:
    async def broken(head: bytes, reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        writer.transport.abort()

    served.controller.http = broken
    raw = b""
    with served.connect() as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        try:
            while data := connection.recv(4096):
                raw += data
        except ConnectionResetError:
            pass
    assert b"0\r\n\r\n" not in raw


def test_head_requests(served: Any, read_answer: Any) -> None:
    async def head_answer(head: bytes, reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")

    served.controller.http = head_answer
    with served.connect() as connection:
        connection.sendall(b"HEAD /bucket/key HTTP/1.1\r\nHost: h\r\n\r\n")
        first = connection.recv(4096)
        assert b"Content-Length: 1234\r\n" in first
        assert first.endswith(b"\r\n\r\n")
        connection.sendall(request(b"next"))
        assert connection.recv(4096).endswith(b"next")


# --- streams ---------------------------------------------------------------------------------------------


def chunks(request: Any, *parts: bytes, failed: str | None = None) -> list[bytes]:
    frames = []
    for number, part in enumerate(parts):
        flags = (1 if number == 0 else 0) | (2 if number == len(parts) - 1 and failed is None else 0)
        head = b"text/plain\0\0primary" if number == 0 else b""
        frames.append(wire.encode_chunk(request.request_id, flags=flags, status=200, head=head, data=part))
    if failed is not None:
        frames.append(
            wire.encode_chunk(request.request_id, flags=4, status=0, head=b"", data=failed.encode())
        )
    return frames


def test_a_stream_through_boto3(served: Any) -> None:
    served.workers["a"].answer = lambda request: chunks(request, b"one", b"two", b"three")
    answer = client(served).invoke_endpoint_with_response_stream(EndpointName="e", Body=b"1", Accept="t/p")
    assert answer["InvokedProductionVariant"] == "v"
    assert answer["ContentType"] == "text/plain"
    assert [event["PayloadPart"]["Bytes"] for event in answer["Body"]] == [b"one", b"two", b"three"]
    head = wire.decode_request_head(served.workers["a"].requests[0].head)
    assert (head.wants_stream, head.accept) == (True, "t/p")


def test_a_whole_answer_is_a_stream_of_one_part(served: Any) -> None:
    answer = client(served).invoke_endpoint_with_response_stream(EndpointName="e", Body=b"whole")
    assert [event["PayloadPart"]["Bytes"] for event in answer["Body"]] == [b"whole"]


def test_a_stream_that_breaks_says_so(served: Any) -> None:
    served.workers["a"].answer = lambda request: chunks(request, b"one", failed="out of luck")
    answer = client(served).invoke_endpoint_with_response_stream(EndpointName="e", Body=b"1")
    parts = []
    with pytest.raises(botocore.exceptions.EventStreamError, match="ModelStreamError"):
        for event in answer["Body"]:
            parts.append(event["PayloadPart"]["Bytes"])
    answer["Body"].close()
    assert parts == [b"one"]


def test_a_worker_that_dies_within_a_stream_says_so(served: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: chunks(request, b"one", b"more", b"end")[:1]
    answer = client(served).invoke_endpoint_with_response_stream(EndpointName="e", Body=b"1")
    events = iter(answer["Body"])
    assert next(events)["PayloadPart"]["Bytes"] == b"one"
    worker.kill()
    with pytest.raises(botocore.exceptions.EventStreamError, match="ModelStreamError"):
        next(events)
    answer["Body"].close()


def stream_request() -> bytes:
    return request(b"1").replace(b"/invocations ", b"/invocations-response-stream ")


def push_until_paused(rig: Any, worker: Any, part: bytes) -> int:
    """Go on with a stream until its reader is known to be behind; returns how many pieces that took."""
    pushed = 0

    def push() -> list[int]:
        nonlocal pushed
        frame = wire.encode_chunk(
            worker.requests[0].request_id, flags=int(pushed == 0), status=200, head=b"text/plain", data=part
        )
        rig.call(write(worker, frame))
        pushed += 1
        flow: list[int] = worker.flow
        return flow

    until(lambda: worker.requests, "the request")
    until(push, "the reader is behind", deadline_s=60.0)
    return pushed


async def write(worker: Any, frame: bytes) -> None:
    worker.writers[0].write(frame)


def test_a_stream_waits_at_its_worker_for_a_slow_reader(served: Any) -> None:
    worker, part = served.workers["a"], b"x" * 200_000
    worker.answer = lambda request: None
    with served.connect() as connection:
        connection.sendall(stream_request())
        pushed = push_until_paused(served, worker, part)
        assert worker.flow == [wire.PAUSE]
        received = b""
        connection.settimeout(0.1)
        while worker.flow == [wire.PAUSE]:
            with contextlib.suppress(TimeoutError):  # all is read, and the news of it under way
                received += connection.recv(65_536)
        assert worker.flow == [wire.PAUSE, wire.RESUME]
        last = wire.encode_chunk(
            worker.requests[0].request_id, flags=wire.CHUNK_LAST, status=200, head=b"", data=part
        )
        served.call(write(worker, last))
        connection.settimeout(60.0)
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65_536)
    assert received.startswith(b"HTTP/1.1 200 ") and received.count(part) == pushed + 1
    until(lambda: served.controller.total("invocations") == 1, "its count")


def test_a_reader_that_leaves_a_waiting_stream_cancels_it(served: Any) -> None:
    worker = served.workers["a"]
    worker.answer = lambda request: None
    with served.connect() as connection:
        connection.sendall(stream_request())
        push_until_paused(served, worker, b"x" * 200_000)
    until(lambda: worker.cancelled == [worker.requests[0].request_id], "its cancelling")


def test_a_stream_that_fails_before_it_began_is_a_model_error(served: Any) -> None:
    served.workers["a"].answer = lambda request: (503, b"\0\0primary", b"busy")
    runtime = client(served)
    with pytest.raises(runtime.exceptions.ModelError):
        runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"1")


# --- signatures ------------------------------------------------------------------------------------------


@pytest.fixture
def signed(rig: Any) -> Any:
    rig.worker("a")
    rig.controller.table = rig.table({"e": {"v": (1.0, ["a"])}})
    rig.start_router(auth="sigv4")
    rig.controller.acked(1)
    return rig


def test_signed_requests(signed: Any) -> None:
    runtime = client(signed)
    large = os.urandom(3_000_000)  # hashed off the loop
    for body in (b"1,2", b"", large):
        assert runtime.invoke_endpoint(EndpointName="e", Body=body)["Body"].read() == body
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        client(signed, secret="wrong").invoke_endpoint(EndpointName="e", Body=b"1")
    assert refused.value.response["Error"]["Code"] == "InvalidSignatureException"
    unsigned = signed.invoke()
    assert (unsigned.status, unsigned.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationToken")
    assert len(signed.workers["a"].requests) == 3
    until(lambda: signed.controller.refused().get("InvalidSignatureException") == 1, "counted")


def test_new_credentials_are_taken_up(signed: Any) -> None:
    signed.credentials.write_text(signed.credentials.read_text().replace('"secret"', '"changed"'))

    def accepted() -> bool:
        try:
            client(signed, secret="changed").invoke_endpoint(EndpointName="e", Body=b"1")
        except botocore.exceptions.ClientError:
            return False
        return True

    until(accepted, "the new secret")


def kin(port: int, body: bytes, number: int, *, secret: str = "secret", sign: bool = True) -> bytes:
    """What boto3 sends: a new invocation id, and a signature of its own, in each request."""
    url = f"http://127.0.0.1:{port}/endpoints/e/invocations"
    headers = {"Content-Type": "text/csv", "amz-sdk-invocation-id": f"00000000-0000-4000-8000-{number:012x}"}
    asked = AWSRequest("POST", url, headers, body)
    if sign:
        SigV4Auth(Credentials("AKIATEST", secret), "sagemaker", "us-west-2").add_auth(asked)
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
    start = f"POST /endpoints/e/invocations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}"
    return f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_requests_like_earlier_ones_are_checked_all_the_same(signed: Any, read_answer: Any) -> None:
    with signed.connect() as connection, connection.makefile("rb") as file:

        def ask(data: bytes) -> Any:
            connection.sendall(data)
            return read_answer(file)

        for number in range(10):
            body = b"row %d" % number
            assert ask(kin(signed.port, body, number)).body == body
        good = kin(signed.port, b"row x", 77)
        at = good.rindex(b"Signature=") + 10
        other = b"0" if good[at : at + 1] != b"0" else b"1"
        for bad in (
            good[:-1] + b"y",
            good.replace(b"4000-8000", b"4000-8001"),
            good[:at] + other + good[at + 1 :],
            good.replace(b"text/csv", b"text/xml"),
            kin(signed.port, b"row x", 77, secret="wrong"),
        ):
            answer = ask(bad)
            assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        assert ask(good).body == b"row x"
        assert ask(kin(signed.port, b"z", 3)).body == b"z"
    assert len(signed.workers["a"].requests) == 12


def test_what_was_recognised_is_forgotten_with_its_credentials(signed: Any, read_answer: Any) -> None:
    with signed.connect() as connection, connection.makefile("rb") as file:

        def status(number: int) -> int:
            connection.sendall(kin(signed.port, b"1", number))
            return read_answer(file).status

        assert [status(number) for number in range(5)] == [200] * 5
        signed.credentials.write_text(signed.credentials.read_text().replace('"secret"', '"changed"'))
        until(lambda: status(9) == 403, "the old key is refused")


def test_unsigned_sdk_heads_keep_what_they_say(served: Any, read_answer: Any) -> None:
    with served.connect() as connection, connection.makefile("rb") as file:
        for number in range(6):
            attributes = b"X-Amzn-SageMaker-Custom-Attributes: a%d\r\nContent-Length" % (number % 3)
            connection.sendall(
                kin(served.port, b"%d" % number, number, sign=False).replace(b"Content-Length", attributes)
            )
            assert read_answer(file).body == b"%d" % number
    told = [wire.decode_request_head(one.head).custom_attributes for one in served.workers["a"].requests]
    assert told == ["a0", "a1", "a2"] * 2

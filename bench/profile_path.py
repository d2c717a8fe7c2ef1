"""Where each microsecond of a request goes: every stage alone, by the code that serves.

Owns one table: parse, verify, choose, frame (router); read, predict, render, write frame (worker); take
apart and write (router).  What a stage costs is the median of many runs of it on real rows; what is left of
a real request's time beside them is system calls, the two processes' wake-ups and the event loop.
Run ``python -m bench.profile_path``; it starts no server.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 41
WORKER = Path(__file__).parents[1] / "src" / "understudy" / "worker" / "__init__.py"


def cost_us(run: Callable[[], object], times: int = 500) -> float:
    """Median over rounds of the mean over ``times`` runs, microseconds."""
    rounds = []
    for _ in range(ROUNDS):
        start_ns = time.perf_counter_ns()
        for _ in range(times):
            run()
        rounds.append((time.perf_counter_ns() - start_ns) / times / 1000)
    return statistics.median(rounds)


def router_stages(row: str, score: str) -> dict[str, float]:
    """Time the router's stages on one row and its answer."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from understudy.core.resigned import recipe_of
    from understudy.core.routing import VariantRoute
    from understudy.core.signing import SignedRequest, Verified, verify
    from understudy.dataplane import answers
    from understudy.dataplane.accounting import Ledger
    from understudy.dataplane.dice import splitmix64
    from understudy.dataplane.familiar import cut
    from understudy.dataplane.guard import parse_head
    from understudy.dataplane.invocation import read_invocation
    from understudy.dataplane.table import Endpoint, Variant
    from understudy.worker import wire

    body = row.encode()
    asked = AWSRequest(
        "POST",
        "http://127.0.0.1:8080/endpoints/churn/invocations",
        data=body,
        headers={"Content-Type": "text/csv", "amz-sdk-invocation-id": str(uuid.uuid4())},
    )
    SigV4Auth(Credentials("AKIA", "secret"), "sagemaker", "us-east-1").add_auth(asked)
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
    start = "POST /endpoints/churn/invocations HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    raw = f"{start}{lines}Content-Length: {len(body)}\r\n\r\n".encode()
    head = parse_head(raw)
    heads = {raw: head}
    received = raw + body
    split = len(raw)

    def parse_known() -> object:
        return heads.get(received[: received.find(b"\r\n\r\n") + 4]), received[split:]

    def parse_new() -> object:
        fresh = parse_head(received[: received.find(b"\r\n\r\n") + 4])
        return read_invocation(fresh), received[split:]

    def parse_familiar() -> object:
        parts = cut(received[: received.find(b"\r\n\r\n") + 4])
        assert parts is not None
        return heads.get(parts[0]), received[split:]

    def check() -> tuple[SignedRequest, Verified]:
        request = SignedRequest(
            head.method.decode(), head.path, head.query, head.headers, hashlib.sha256(body).hexdigest()
        )
        keys = {"AKIA": "secret"}
        return request, verify(request, keys, now_s=time.time(), region="us-east-1", services=("sagemaker",))

    recipe = recipe_of(*check())
    sent = cut(raw)
    assert recipe is not None and sent is not None
    heads[sent[0]] = head

    def check_by_recipe() -> object:
        return recipe.holds(sent[1], hashlib.sha256(body).hexdigest(), sent[2])

    ledger = Ledger()
    routes = tuple(VariantRoute(name, 1.0, "config", ()) for name in ("a", "b"))
    endpoint = Endpoint("churn", [(1.0, Variant(route, "churn", [], ledger)) for route in routes])
    draw = splitmix64(1)
    invocation = read_invocation(head)
    assert invocation is not None
    wire_head = invocation.wire_head("a")
    answer = wire.encode_responses([(1, 200, b"text/csv; charset=utf-8", score.encode())])
    template = answers.success_template("a", b"text/csv; charset=utf-8", b"0" * 24, closes=False)
    tally = ledger.tally("churn", "a", "config")

    def take_apart() -> object:
        (_, payload), *_ = wire.FrameSplitter().feed(answer)
        return wire.decode_responses(payload)

    def count() -> None:
        tally.answered(1.0, 100, 20)
        if len(tally.model_us) > 1000:
            tally.take(0)

    return {
        "parse, head seen before (unsigned keep-alive)": cost_us(parse_known),
        "parse, head of an SDK like one before": cost_us(parse_familiar),
        "parse, new head": cost_us(parse_new),
        "verify the signature by its recipe (like one before)": cost_us(check_by_recipe),
        "verify the signature (new head)": cost_us(check),
        "choose one of two variants": cost_us(lambda: endpoint.choose(draw())),
        "frame for the worker": cost_us(lambda: wire.encode_requests([(1, wire_head, body)])),
        "take the worker's frame apart": cost_us(take_apart),
        "render the answer": cost_us(lambda: template % (1, len(score), score.encode())),
        "count": cost_us(count),
    }


def worker_stages(model: str, row: str) -> dict[str, float]:
    """Time the worker's stages; runs in an interpreter that has xgboost."""
    import array
    import importlib.util

    import xgboost  # type: ignore[import-not-found, unused-ignore]

    spec = importlib.util.spec_from_file_location(
        "understudy_worker", WORKER, submodule_search_locations=[str(WORKER.parent)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["understudy_worker"] = package
    spec.loader.exec_module(package)
    from understudy_worker import wire  # type: ignore[import-not-found, unused-ignore]
    from understudy_worker.calls import Call  # type: ignore[import-not-found, unused-ignore]
    from understudy_worker.xgboost_model import (  # type: ignore[import-not-found, unused-ignore]
        XGBoostHandler,
    )
    from understudy_worker.xgboost_native import Predictor  # type: ignore[import-not-found, unused-ignore]

    body = row.encode()
    predictor = Predictor(xgboost.Booster(model_file=model), xgboost, 2)
    handler = XGBoostHandler(
        predictor, note="", joined_by_comma=False, for_batch_transform=False, max_batch_rows=512
    )
    frame = wire.encode_requests([(1, b"text/csv", body)])
    values = array.array("f", map(float, row.split(",")))
    calls = [Call(wire.RequestHead(content_type="text/csv"), body)]

    def read() -> object:
        (_, payload), *_ = wire.FrameSplitter().feed(frame)
        return [wire.decode_request_head(one.head) for one in wire.decode_requests(payload)]

    def parse() -> object:
        return array.array("f", map(float, body.decode("ascii").split(",")))

    result: dict[str, Any] = {
        "take the router's frame apart": cost_us(read),
        "parse the CSV row without msgspec": cost_us(parse),
        "predict": cost_us(lambda: predictor.predict(values, 1, len(values))),
        "answer without msgspec (parse, checks, predict, render)": cost_us(lambda: handler.answer(calls)),
        "frame for the router": cost_us(
            lambda: wire.encode_responses([(1, 200, b"text/csv", b"0.123456789")])
        ),
    }
    many = calls * 16
    result["answer without msgspec, each of 16 at once"] = cost_us(lambda: handler.answer(many), 50) / 16
    return result


def packing_stages(row: str) -> dict[str, float]:
    """Time how rows become float32 where msgspec is there, as it is in this interpreter."""
    from understudy.worker.clean_rows import RowPacker

    packer = RowPacker(row.count(",") + 1, 512)
    one, many = [row.encode()], [row.encode()] * 16
    return {
        "parse the CSV row": cost_us(lambda: packer.pack(one)),
        "parse the CSV row, each of 16 at once": cost_us(lambda: packer.pack(many), 50) / 16,
    }


def main() -> None:
    """Print both tables as Markdown."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker_stages(sys.argv[2], sys.argv[3])))
        return
    from bench.environments import environment_of
    from bench.work import prepare

    work = prepare()
    row, score = work.rows[0], work.expected[0]
    python = str(environment_of("bare_loop"))
    command = [python, __file__, "--worker", str(work.model), row]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    for title, stages in (
        ("router", router_stages(row, score)),
        ("worker", packing_stages(row) | json.loads(done.stdout.splitlines()[-1])),
    ):
        print(f"\n| {title} | µs |\n|---|---:|")
        for name, value in stages.items():
            print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()

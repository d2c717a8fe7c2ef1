"""``understudy compare`` against a real gateway over real captured files, and on files alone."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from click.testing import CliRunner

from understudy.aws.gateway import Gateway
from understudy.capture.collector import Collector
from understudy.capture.records import CaptureRecord, render_line
from understudy.capture.spool import SpoolWriter
from understudy.cli import main
from understudy.core.metrics import Summary, router_data
from understudy.core.names import Place
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_assignments import MemoryAssignments
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_logs import MemoryLogs
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.memory_series import MemorySeries
from understudy.system import RealClock, RealEntropy

KEYS = {"AKIDTEST": "secret"}


def record(variant: str, number: int, answer: str, at_s: float, **changes: Any) -> CaptureRecord:
    facts: dict[str, Any] = {
        "destination": "s3://kept/here", "endpoint": "churn", "variant": variant, "event_id": f"e-{number}",
        "inference_id": f"i-{number}", "custom_attributes": None, "at_s": at_s, "input_type": "text/csv",
        "input_body": b"%d,2" % number, "output_type": "text/csv; charset=utf-8",
        "output_body": answer.encode(), "csv_types": ("text/csv",),
    }  # fmt: skip
    return CaptureRecord(**{**facts, **changes})


@dataclass
class CaptureServer:
    """A server with an endpoint, and what it captured."""

    data_dir: Path
    services: Services
    aws: Callable[[str], Any]

    def capture(self, records: list[CaptureRecord]) -> None:
        """Put records where a server puts them."""
        spool = self.data_dir / "spool"
        shed: list[object] = []
        clock = self.services.clock
        writer = SpoolWriter(
            spool, 0, str(time.monotonic_ns()), on_shed=lambda *a: shed.append(a), wall_s=clock.now_s
        )
        assert all(writer.offer(one) for one in records)
        writer.close(20.0)
        assert not shed
        objects = self.services.objects
        Collector(
            spool, objects, self.services.buckets, clock, RealEntropy(), lambda *told: None
        ).collect_once(20.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaptureServer]:
    clock, data_dir = RealClock(), tmp_path_factory.mktemp("server")
    objects = MemoryObjects(clock)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        services = Services(
            records=MemoryRecords(), buckets=objects, objects=objects, series=MemorySeries(),
            logs=MemoryLogs(), stages=MemoryEvidence(), evidence=MemoryEvidence(),
            assignments=MemoryAssignments(), outcomes=MemoryOutcomes(), clock=clock,
            entropy=RealEntropy(), place=Place(), endpoint_url=url, nudge=lambda: None,
        )  # fmt: skip
        gateway = Gateway(services, OPERATIONS, lambda: KEYS, "sigv4")
        server = uvicorn.Server(uvicorn.Config(gateway, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline_s = time.monotonic() + 20.0
        while not server.started:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        (data_dir / "run").mkdir()
        (data_dir / "run" / "server.json").write_text(json.dumps({"pid": os.getpid(), "endpoint_url": url}))
        (data_dir / "credentials.json").write_text(
            json.dumps({"access_key_id": "AKIDTEST", "secret_access_key": "secret"})
        )

        def aws(service: str) -> Any:
            return boto3.client(
                service, region_name="us-east-1", endpoint_url=url, aws_access_key_id="AKIDTEST",
                aws_secret_access_key="secret",
            )  # fmt: skip

        place = CaptureServer(data_dir, services, aws)
        _make_endpoints(aws("sagemaker"), aws("s3"))
        yield place
        server.should_exit = True
        thread.join(timeout=20.0)
        gateway.close()
    assert not thread.is_alive()


def _make_endpoints(sagemaker: Any, s3: Any) -> None:
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="m.tar.gz", Body=b"nobody loads it here")
    role = "arn:aws:iam::123456789012:role/x"
    image = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"
    sagemaker.create_model(
        ModelName="m",
        ExecutionRoleArn=role,
        PrimaryContainer={"Image": image, "ModelDataUrl": "s3://kept/m.tar.gz"},
    )

    def variant(name: str) -> dict[str, Any]:
        return {
            "VariantName": name,
            "ModelName": "m",
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
        }

    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://kept/here",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    sagemaker.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[variant("AllTraffic")],
        ShadowProductionVariants=[variant("Shadow-01")],
        DataCaptureConfig=capture,
    )
    sagemaker.create_endpoint(EndpointName="churn", EndpointConfigName="c")
    sagemaker.create_endpoint_config(EndpointConfigName="plain", ProductionVariants=[variant("AllTraffic")])
    sagemaker.create_endpoint(EndpointName="plain", EndpointConfigName="plain")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["compare", *arguments], catch_exceptions=False)


def test_an_endpoints_shadow_against_its_production(served: CaptureServer) -> None:
    now_s = served.services.clock.now_s()
    records = []
    for number in range(40):
        answer = "0.48" if number == 3 else "0.7"
        records.append(record("AllTraffic", number, answer, now_s - 60))
        if number % 2:
            records.append(record("Shadow-01", number, "0.52" if number == 3 else "0.7", now_s - 60))
    records.append(record("AllTraffic", 900, "0.1", now_s - 7200))
    records.append(record("Shadow-01", 900, "0.9", now_s - 7200))
    served.capture(records)
    latency = Summary.of([2000.0] * 39 + [9000.0]).to_json()
    empty = Summary().to_json()
    item = {
        "endpoint": "churn", "variant": "AllTraffic", "config": "c", "at_s": int(now_s) - 60,
        "invocations": 40, "errors_4xx": 1, "errors_5xx": 0, "model_errors": 0, "per_instance": 40.0,
        "model_latency_us": latency, "overhead_latency_us": empty,
    }  # fmt: skip
    served.services.series.record(router_data([item]))
    arguments = ["--data-dir", str(served.data_dir), "--endpoint", "churn", "--threshold", "0.5"]
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["baseline"], report["candidate"]) == ("AllTraffic", "Shadow-01")
    assert (report["pairs"], report["differing"], report["class_flips"]) == (20, 1, 1)
    assert (report["only_baseline"], report["only_candidate"]) == (20, 0)
    (example,) = report["examples"]
    shown = [example[name] for name in ("event_id", "input", "baseline_answer", "candidate_answer")]
    assert shown == ["e-3", "3,2", "0.48", "0.52"]
    production = report["metrics"]["AllTraffic"]
    assert (production["requests"], production["errors_4xx"], production["max_us"]) == (40, 1, 9000.0)
    assert abs(production["p50_us"] - 2000.0) < 30.0
    assert report["metrics"]["Shadow-01"]["requests"] == 0
    wide = json.loads(run(*arguments, "--json", "--window", "1d", "--variants", "AllTraffic,shadow").output)
    assert wide["pairs"] == 21
    output = run(*arguments).output
    for text in (
        "20 requests with both answers; 1 differ",
        "1 class flips at 0.5",
        "column 1",
        "0.48 -> 0.52",
    ):
        assert text in output
    assert "AllTraffic" in output and "9.00" in output


def test_second_answers_of_production_are_found_and_used(served: CaptureServer) -> None:
    now_s = served.services.clock.now_s()
    place = {"endpoint": "noisy", "destination": "s3://kept/noise"}

    def answers(variant: str, shift: int, worse: int, every: int = 1) -> list[CaptureRecord]:
        return [
            record(variant, number, f"{int((number + shift) % 5 == 0)},{worse}", now_s - 60, **place)
            for number in range(0, 600, every)
        ]

    served.capture([*answers("A", 0, 0), *answers("B", 1, 1)])
    where = ["--data-dir", str(served.data_dir), "--endpoint", "noisy", "--destination", "s3://kept/noise"]
    plain = json.loads(run(*where, "--variants", "A,B", "--json").output)
    assert plain["noise"]["pairs"] == 0
    assert {row["field"] for row in plain["fields"] if row["above_noise"] is not False} == {
        "$[*].column 1",
        "$[*].column 2",
    }
    served.capture(answers("A-noise", 2, 0, every=7))
    report = json.loads(run(*where, "--variants", "A,B", "--json").output)
    assert report["noise"] == {"pairs": 86, "measured_by": "second answers"}
    assert report["pairs"] == 600
    above = {row["field"]: row["above_noise"] for row in report["fields"]}
    assert above == {"$[*].column 1": False, "$[*].column 2": True}
    assert {one["field"] for one in report["examples"]} == {"$[*].column 2"}


def test_mistakes_are_told_with_what_to_do(served: CaptureServer) -> None:
    where = ["--data-dir", str(served.data_dir), "--endpoint"]
    gone = run(*where, "gone")
    assert gone.exit_code == 1
    assert "Could not find endpoint" in gone.output and "--destination" in gone.output
    plain = run(*where, "plain")
    assert plain.exit_code == 1 and "captures nothing" in plain.output
    unknown = run(*where, "churn", "--variants", "AllTraffic,other")
    assert unknown.exit_code == 2 and "shadow variants are Shadow-01" in unknown.output
    assert run(*where, "churn", "--variants", "one").exit_code == 2
    missing = run(*where, "gone", "--destination", "s3://nobucket/x", "--variants", "a,b")
    assert missing.exit_code == 1 and "s3://nobucket/x can't be read" in missing.output
    assert run().exit_code == 2
    assert run(*where, "churn", str(Path(__file__)), str(Path(__file__))).exit_code == 2


def test_a_gone_endpoints_capture_is_still_compared(served: CaptureServer) -> None:
    now_s = served.services.clock.now_s()
    moved = {"endpoint": "old", "destination": "s3://kept/there/"}
    served.capture([record(name, 1, "1", now_s, **moved) for name in ("A", "B")])
    done = run(
        "--data-dir", str(served.data_dir), "--endpoint", "old", "--destination", "s3://kept/there",
        "--variants", "A,B", "--json",
    )  # fmt: skip
    assert json.loads(done.output)["pairs"] == 1


def _file(path: Path, records: list[CaptureRecord]) -> str:
    path.write_bytes(b"".join(render_line(one) + b"\n" for one in records))
    return str(path)


def test_two_files_by_event_inference_or_input(tmp_path: Path) -> None:
    ours = _file(tmp_path / "ours.jsonl", [record("A", number, "1", 1.6e9) for number in range(5)])
    replayed = [record("B", number, "2", 1.7e9, event_id=f"other-{number}") for number in range(5)]
    theirs = _file(tmp_path / "theirs.jsonl", replayed)
    for match, pairs in (("event", 0), ("inference", 5), ("input", 5)):
        report = json.loads(run(ours, theirs, "--match", match, "--json").output)
        assert (report["pairs"], report["differing"]) == (pairs, pairs)
        assert report["only_baseline"] == report["only_candidate"] == 5 - pairs
    assert "match by something else (--match inference, input)" in run(ours, theirs).output


def test_noise_from_a_third_file_and_from_repeated_requests(tmp_path: Path) -> None:
    def answers(variant: str, shift: int, worse: int, repeated: bool = False) -> list[CaptureRecord]:
        return [
            record(
                variant, number, f"{int((number + shift) % 7 == 0)},{worse}", 1.6e9,
                input_body=b"%d" % (number % 20 if repeated else number),
            )
            for number in range(400)
        ]  # fmt: skip

    ours = _file(tmp_path / "ours.jsonl", answers("A", 0, 0))
    theirs = _file(tmp_path / "theirs.jsonl", answers("B", 1, 1))
    again = _file(tmp_path / "again.jsonl", answers("A", 2, 0))
    report = json.loads(run(ours, theirs, again, "--json").output)
    above = {row["field"]: row["above_noise"] for row in report["fields"]}
    assert above == {"$[*].column 1": False, "$[*].column 2": True}
    assert report["noise"] == {"pairs": 400, "measured_by": "second answers"}
    ours = _file(tmp_path / "ours2.jsonl", answers("A", 0, 0, repeated=True))
    report = json.loads(run(ours, theirs, "--json").output)
    assert report["noise"] == {"pairs": 380, "measured_by": "repeated requests"}
    assert {row["field"]: row["above_noise"] for row in report["fields"]} == above


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    ours = _file(tmp_path / "ours.jsonl", [record("A", 1, "1", 1.6e9)])
    (tmp_path / "theirs.jsonl").write_bytes(render_line(record("B", 1, "1", 1.6e9)) + b"\n{torn")
    done = CliRunner().invoke(main, ["compare", ours, str(tmp_path / "theirs.jsonl")])
    assert done.exit_code == 0
    assert "1 lines are no captured records" in done.stdout
    assert "theirs.jsonl:2" in done.stderr

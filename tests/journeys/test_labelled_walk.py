"""The A/B walk with labels: rows to both variants by weight, ground truth and CSV, quality per variant."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn import metrics as sk

from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import read_server

ROLE = "arn:aws:iam::123456789012:role/understudy"
NAME, BUCKET = "churn-labelled", "labelled"
SENT, FIRST = 1500, 120
POLICY = {
    "name": "churn accuracy",
    "kind": "experiment",
    "label_window_s": 0,
    "primary": {"metric": "accuracy", "mde": 0.02},
    "guardrails": [{"metric": "error_rate"}, {"metric": "auc", "margin": 0.03}],
}

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(900)]

Answers = list[tuple[str, str, float]]  # inference id, variant, score


@pytest.fixture(scope="module")
def rows(churn_files: tuple[Path, Path, Path]) -> list[list[str]]:
    """1,500 different labelled rows: the test set first, as in the walk; the label is the first column."""
    folder = churn_files[2].parent
    found = []
    for name in ("test-dataset.csv", "validation.csv", "training-dataset-with-header.csv"):
        with (folder / name).open() as file:
            found += [row for row in csv.reader(file) if row[0] in ("0", "1")]
    return found[:SENT]


@pytest.fixture(scope="module")
def labels(rows: list[list[str]]) -> list[int]:
    return [int(row[0]) for row in rows]


@pytest.fixture(scope="module")
def endpoint(server: Any, churn_files: tuple[Path, Path, Path]) -> Iterator[str]:
    """Both churn models, half and half, every answer captured."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    variants = []
    for number, image in ((1, "xgboost:0.90-1"), (2, "xgboost:0.90-2")):
        s3.upload_file(str(churn_files[number - 1]), BUCKET, f"model{number}.tar.gz")
        sagemaker.create_model(
            ModelName=f"{NAME}-{number}",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://{BUCKET}/model{number}.tar.gz"},
        )
        variants.append(
            {
                "VariantName": f"Variant{number}",
                "ModelName": f"{NAME}-{number}",
                "InstanceType": "ml.m5.xlarge",
                "InitialInstanceCount": 1,
                "InitialVariantWeight": 0.5,
            }
        )
    capture = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
    }
    sagemaker.create_endpoint_config(
        EndpointConfigName=NAME, ProductionVariants=variants, DataCaptureConfig=capture
    )
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 500}
    )
    yield NAME
    sagemaker.delete_endpoint(EndpointName=NAME)


@pytest.fixture(scope="module")
def ask(server: Any, endpoint: str) -> Callable[..., dict[str, Any]]:
    def call(method: str, rest: str, **options: Any) -> dict[str, Any]:
        return call_server(read_server(server.data_dir), method, endpoint_path(endpoint, rest), **options)

    return call


@pytest.fixture(scope="module")
def answers(server: Any, endpoint: str, ask: Callable[..., dict[str, Any]], rows: list[list[str]]) -> Answers:
    """An answer per row, with the inference ids that they were asked under."""
    ask("PUT", "policy", body=POLICY)
    runtime = server.client("sagemaker-runtime")
    found = []
    for number, row in enumerate(rows):
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="text/csv",
            Body=",".join(row[1:]),
            InferenceId=str(number),
        )
        found.append((str(number), answer["InvokedProductionVariant"], float(answer["Body"].read())))
    return found


def until(check: Callable[[], Any], patience_s: float = 300.0) -> Any:
    deadline_s = time.monotonic() + patience_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.2)


def expected(answers: Answers, labels: list[int], variant: str) -> dict[str, float]:
    """What scikit-learn says of the same predictions."""
    ours = [(labels[int(id_)], score) for id_, who, score in answers if who == variant]
    truth, scores = [label for label, _ in ours], [score for _, score in ours]
    decided = [score >= 0.5 for score in scores]
    return {
        "accuracy": sk.accuracy_score(truth, decided),
        "precision": sk.precision_score(truth, decided),
        "recall": sk.recall_score(truth, decided),
        "f1": sk.f1_score(truth, decided),
        "auc": sk.roc_auc_score(truth, scores),
        "log_loss": sk.log_loss(truth, scores),
    }


def check_quality(told: dict[str, Any], answers: Answers, labels: list[int]) -> None:
    for one in told["variants"]:
        ours = expected(answers, labels, one["variant"])
        assert one["kind"] == "binary"
        assert one["examples"] == sum(who == one["variant"] for _, who, _ in answers)
        for name, value in ours.items():
            measure = one["metrics"][name]
            assert measure["value"] == pytest.approx(value, rel=1e-9), name
            assert measure["low"] <= value <= measure["high"]
        assert sum(one["confusion_matrix"].values()) == one["examples"]


def test_ground_truth_of_the_first_120(
    server: Any, ask: Callable[..., dict[str, Any]], answers: Answers, labels: list[int]
) -> None:
    """SageMaker's JSON Lines under a prefix, as its notebook uploads them, for the 120 rows of the walk."""
    lines = [
        json.dumps(
            {
                "groundTruthData": {"data": str(labels[int(id_)]), "encoding": "CSV"},
                "eventMetadata": {"eventId": id_},
                "eventVersion": "0",
            }
        )
        for id_, _, _ in answers[:FIRST]
    ]
    s3 = server.client("s3")
    s3.put_object(Bucket=BUCKET, Key="truth/2026/11/21/08/0000.jsonl", Body="\n".join(lines[:100]))
    ask("PUT", "ground-truth", body={"s3_uri": f"s3://{BUCKET}/truth"})
    s3.put_object(
        Bucket=BUCKET, Key="truth/2026/11/21/08/0100.jsonl", Body="\n".join([*lines[90:], "no line"])
    )

    def read_whole() -> dict[str, Any] | None:
        told = ask("GET", "outcomes")
        return told if told["ground_truth"]["files"] == 2 else None

    told = until(read_whole)
    assert told["ground_truth"]["bad_lines"] == 1 and "0100.jsonl:31" in told["ground_truth"]["problems"][0]
    (tally,) = told["outcomes"]
    assert (tally["kept"], tally["duplicates"], tally["conflicting"]) == (FIRST, 10, 0)

    def quality() -> dict[str, Any] | None:
        told = ask("GET", "quality")
        return told if sum(one["exposures"]["total"] for one in told["variants"]) == len(answers) else None

    told = until(quality)
    check_quality(told, answers[:FIRST], labels)
    for one in told["variants"]:
        metrics = one["metrics"]
        assert metrics["auc"]["approximate"], "some 60 requests are few"
        assert metrics["accuracy"]["high"] - metrics["accuracy"]["low"] > 0.05
        assert one["exposures"]["label_maturity"] == pytest.approx(
            one["examples"] / one["exposures"]["total"]
        )


def test_120_rows_are_not_enough(ask: Callable[..., dict[str, Any]], answers: Answers) -> None:
    def judged() -> dict[str, Any] | None:
        told = ask("GET", "verdict")
        # Counts, captured answers and labels come by themselves, each in its time.
        complete = told["requests"] == told["validity"].get("label_exposures") == SENT
        return told if complete and told["evidence"][0].get("examples") == FIRST else None

    told = until(judged)
    assert told["verdict"] == "HOLD" and told["policy"] == "churn accuracy"
    assert told["validity"]["label_maturity"] == pytest.approx(FIRST / SENT)
    assert "accuracy" in told["reason"]


def test_a_csv_of_all_labels(
    server: Any,
    ask: Callable[..., dict[str, Any]],
    answers: Answers,
    labels: list[int],
    tmp_path: Path,
) -> None:
    file = tmp_path / "labels.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "churned"])
        writer.writerows((id_, labels[int(id_)]) for id_, _, _ in answers)
        writer.writerow(["", "1"])
        writer.writerow(["0", 1 - labels[0]])
    command = [sys.executable, "-m", "understudy.cli", "labels", "import", NAME, str(file)]
    command += [
        "--data-dir",
        str(server.data_dir),
        "--id-column",
        "id",
        "--label-column",
        "churned",
        "--json",
    ]
    for accepted, duplicates in ((len(answers) - FIRST, FIRST), (0, len(answers))):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["accepted"], told["duplicates"]) == (accepted, duplicates)
        assert (told["conflicting"], told["left_out"]) == (1, 1)
    check_quality(ask("GET", "quality"), answers, labels)


def test_slices_add_up(ask: Callable[..., dict[str, Any]], answers: Answers, labels: list[int]) -> None:
    told = ask("GET", "quality", query={"by": "column 1", "threshold": 0.3})
    for one in told["variants"]:
        assert 2 <= len(one["slices"]) <= 5
        assert sum(part["examples"] for part in one["slices"]) == one["examples"]
        right = sum(part["metrics"]["accuracy"]["value"] * part["examples"] for part in one["slices"])
        assert right / one["examples"] == pytest.approx(one["metrics"]["accuracy"]["value"])


def test_labels_wait_until_their_window_is_over(ask: Callable[..., dict[str, Any]], answers: Answers) -> None:
    told = ask("GET", "quality", query={"label_window_s": 3600})
    for one in told["variants"]:
        assert one["exposures"]["mature"] == one["examples"] == 0
        assert one["exposures"]["early_labels"] == one["exposures"]["total"] > 0
        assert one["exposures"]["label_maturity"] is None


def test_the_shell_shows_quality(server: Any, ask: Any, answers: Answers) -> None:
    command = [sys.executable, "-m", "understudy.cli", "quality", NAME, "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Variant1:" in done.stdout and "accuracy" in done.stdout and "auc" in done.stdout


def test_what_1500_rows_prove_is_told(
    server: Any,
    ask: Callable[..., dict[str, Any]],
    answers: Answers,
    labels: list[int],
    rows: list[list[str]],
) -> None:
    """Requests that name their variant decide nothing; the verdict follows from the numbers it shows."""
    runtime = server.client("sagemaker-runtime")
    for _ in range(30):
        runtime.invoke_endpoint(
            EndpointName=NAME, ContentType="text/csv", Body=",".join(rows[0][1:]), TargetVariant="Variant2"
        )

    def judged() -> dict[str, Any] | None:
        told = ask("GET", "verdict")
        complete = told["evidence"][0].get("examples") == SENT
        return told if complete and told["validity"]["excluded_targeted"] == 30 else None

    told = until(judged)
    accuracy = told["evidence"][0]
    for arm, variant in (("control", "Variant1"), ("treatment", "Variant2")):
        ours = expected(answers, labels, variant)
        assert accuracy["values"][arm] == pytest.approx(ours["accuracy"], rel=1e-9)
        assert told["evidence"][2]["values"][arm] == pytest.approx(ours["auc"], rel=1e-9)
    low, high = accuracy["interval"]
    assert low < accuracy["effect"] < high
    proven = accuracy["max_E_superior"] >= accuracy["needs_superior"]
    assert (told["verdict"] == "PROMOTE") <= proven
    assert told["verdict"] in ("HOLD", "KEEP", "PROMOTE") and told["would_change"]

    command = [sys.executable, "-m", "understudy.cli", "verdict", NAME, "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    codes = {"PROMOTE": 0, "KEEP": 10, "HOLD": 11}
    assert done.returncode == codes[told["verdict"]], done.stderr
    assert "Variant2 against Variant1" in done.stdout
    replay_id = done.stdout.split("replay ")[-1].strip()
    again = [*command[:4], "replay", replay_id, *command[5:]]
    done = subprocess.run(again, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "identical" in done.stdout, done.stdout + done.stderr

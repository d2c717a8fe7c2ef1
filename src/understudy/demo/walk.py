"""The demo's story: deploy two models, compare them under traffic, shift it, drop the old one.

Makes boto3 calls and prints; starts nothing.  Main function: :func:`walk`.
Source: AWS's blog post and notebook on A/B testing with production variants, told with other data.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from understudy.demo.calls import Calls
from understudy.demo.models import Trained, measure

IMAGE = "sklearn:1"
INSTANCE_TYPE = "ml.m5.large"
OLD, NEW = "Variant1", "Variant2"
SHIFTS = ((0.25, 0.75), (0.0, 1.0))
METRICS_PATIENCE_S = 20.0
DAY_S = 86400


class WalkFailed(Exception):
    """Something was not as the story needs it; the text says what."""


@dataclass
class Walk:
    """What the story works with, and the names it made."""

    calls: Calls
    console: Console
    trained: Trained
    role_arn: str
    now_s: Callable[[], float]
    name: str
    sent: Counter[str] = field(default_factory=Counter)
    configs: list[str] = field(default_factory=list)

    @property
    def models(self) -> tuple[str, str]:
        """The names of both models, the older one first."""
        return f"{self.name}-old", f"{self.name}-new"


def walk(story: Walk, *, keep: bool) -> None:
    """Tell the story; at its end everything is deleted unless it is kept.

    Raises:
        WalkFailed: a check did not hold.
        botocore.exceptions.ClientError, WaiterError: a call failed.
    """
    _deploy(story)
    rows = story.trained.rows
    story.console.print(f"\n[bold]Traffic by weight[/bold], 50/50, {len(rows)} held-out rows twice")
    _report(story, "50/50", _send_by_weight(story, [*rows, *rows], "by weight"))
    _compare(story)
    for old, new in SHIFTS:
        _shift(story, old, new)
    _drop_old(story)
    if not keep:
        _clean_up(story)


def _deploy(story: Walk) -> None:
    calls, bucket = story.calls, f"{story.name.lower()}-models"
    story.console.print("\n[bold]Deploying[/bold] two models behind one endpoint")
    calls("s3", "create_bucket", Bucket=bucket)
    for (what, path), model in zip(story.trained.artifacts, story.models, strict=True):
        code = {"Filename": repr(path.name)}
        calls("s3", "upload_file", as_code=code, Filename=str(path), Bucket=bucket, Key=path.name)
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{bucket}/{path.name}"}
        calls(
            "sm",
            "create_model",
            ModelName=model,
            PrimaryContainer=container,
            ExecutionRoleArn=story.role_arn,
        )
        story.console.print(f"  {model}: {what}, {_size(path)}")
    config = f"{story.name}-both"
    variants = [_variant(name, model, 0.5) for name, model in zip((OLD, NEW), story.models, strict=True)]
    calls("sm", "create_endpoint_config", EndpointConfigName=config, ProductionVariants=variants)
    story.configs.append(config)
    calls("sm", "create_endpoint", EndpointName=story.name, EndpointConfigName=config)
    started_s = time.monotonic()
    calls.wait("endpoint_in_service", EndpointName=story.name)
    story.console.print(f"  {story.name} is InService after {time.monotonic() - started_s:.1f} s")


def _variant(name: str, model: str, weight: float) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": INSTANCE_TYPE,
        "InitialInstanceCount": 1,
        "InitialVariantWeight": weight,
    }


# --- traffic ---------------------------------------------------------------------------------------


def _invoke(story: Walk, row: str, target: str | None = None) -> tuple[str, float]:
    """Send one row and return (variant that answered, its probability)."""
    aimed = {} if target is None else {"TargetVariant": target}
    answer = story.calls(
        "runtime",
        "invoke_endpoint",
        as_code={"Body": "row"},
        EndpointName=story.name,
        ContentType="text/csv",
        Body=row,
        **aimed,
    )
    variant = str(answer["InvokedProductionVariant"])
    story.sent[variant] += 1
    text = answer["Body"].read()
    try:
        return variant, float(text)
    except ValueError as error:
        raise WalkFailed(f"{variant} answered {text[:100]!r}, not a probability.") from error


def _send_by_weight(story: Walk, rows: list[str], what: str) -> Counter[str]:
    return Counter(_invoke(story, row)[0] for row in _progress(story.console, rows, what))


def _report(story: Walk, split: str, counts: Counter[str]) -> None:
    total = sum(counts.values())
    shares = ", ".join(f"{name} {counts[name]} ({counts[name] / total:.0%})" for name in (OLD, NEW))
    story.console.print(f"  weights {split}: {shares}")


def _progress(console: Console, rows: list[str], what: str) -> Iterator[str]:
    columns = (TextColumn(f"  {what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(rows)


# --- comparison ------------------------------------------------------------------------------------


def _compare(story: Walk) -> None:
    """Send every row to each variant by name and show how good and how fast each is."""
    story.console.print("\n[bold]Traffic by target[/bold]: every row to each variant")
    scores: dict[str, list[float]] = defaultdict(list)
    for target in (OLD, NEW):
        for row in _progress(story.console, story.trained.rows, target):
            variant, score = _invoke(story, row, target)
            if variant != target:
                raise WalkFailed(f"A request for {target} was answered by {variant}.")
            scores[target].append(score)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("  VARIANT")
    for column in ("REQUESTS", "P50 ms", "P99 ms", "ACCURACY", "PRECISION", "RECALL", "F1", "AUC"):
        table.add_column(column, justify="right")
    for variant in (OLD, NEW):
        quality = measure(story.trained.labels, scores[variant])
        figures = (quality.accuracy, quality.precision, quality.recall, quality.f1, quality.auc)
        count, p50_us, p99_us = _metrics(story, variant)
        table.add_row(
            f"  {variant}",
            str(count),
            f"{p50_us / 1000:.2f}",
            f"{p99_us / 1000:.2f}",
            *(f"{figure:.3f}" for figure in figures),
        )
    story.console.print(table)
    story.console.print("  (requests and ModelLatency from CloudWatch's GetMetricStatistics)")


def _metrics(story: Walk, variant: str) -> tuple[int, float, float]:
    """Read (Invocations, p50 and p99 of ModelLatency in microseconds) once CloudWatch has all of it."""
    deadline_s = time.monotonic() + METRICS_PATIENCE_S
    while True:
        counted = _statistics(story, variant, "Invocations", Statistics=["Sum"])
        total = round(sum(point["Sum"] for point in counted))
        if total == story.sent[variant]:
            break
        if time.monotonic() > deadline_s:
            raise WalkFailed(
                f"CloudWatch shows {total} invocations of {variant} after {METRICS_PATIENCE_S:g} s; "
                f"{story.sent[variant]} were sent."
            )
        time.sleep(0.25)
    points = _statistics(story, variant, "ModelLatency", ExtendedStatistics=["p50", "p99"])
    newest = max(points, key=lambda point: point["Timestamp"])["ExtendedStatistics"]
    return total, newest["p50"], newest["p99"]


def _statistics(story: Walk, variant: str, metric: str, **statistics: list[str]) -> list[dict[str, Any]]:
    now = datetime.fromtimestamp(story.now_s(), UTC)
    answer = story.calls(
        "cw",
        "get_metric_statistics",
        as_code={
            "StartTime": "datetime.now(timezone.utc) - timedelta(days=1)",
            "EndTime": "datetime.now(timezone.utc) + timedelta(hours=1)",
        },
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": story.name},
            {"Name": "VariantName", "Value": variant},
        ],
        StartTime=now - timedelta(days=1),
        EndTime=now + timedelta(hours=1),
        Period=DAY_S,
        **statistics,
    )
    points: list[dict[str, Any]] = answer["Datapoints"]
    return points


# --- changes ---------------------------------------------------------------------------------------


def _shift(story: Walk, old: float, new: float) -> None:
    story.console.print(f"\n[bold]Shifting[/bold] the weights to {old:g}/{new:g}, no redeployment")
    weights = [
        {"VariantName": OLD, "DesiredWeight": old},
        {"VariantName": NEW, "DesiredWeight": new},
    ]
    story.calls(
        "sm",
        "update_endpoint_weights_and_capacities",
        EndpointName=story.name,
        DesiredWeightsAndCapacities=weights,
    )
    story.calls.wait("endpoint_in_service", EndpointName=story.name)
    counts = _send_by_weight(story, story.trained.rows, f"{old:g}/{new:g}")
    if old == 0.0 and counts[OLD]:
        raise WalkFailed(f"{OLD} has weight 0 and answered {counts[OLD]} requests.")
    _report(story, f"{old:g}/{new:g}", counts)


def _drop_old(story: Walk) -> None:
    """Move the endpoint to a configuration without the old variant while requests go on."""
    story.console.print(f"\n[bold]Dropping {OLD}[/bold] by UpdateEndpoint while requests keep coming")
    config = f"{story.name}-new-only"
    variants = [_variant(NEW, story.models[1], 1.0)]
    story.calls("sm", "create_endpoint_config", EndpointConfigName=config, ProductionVariants=variants)
    story.configs.append(config)
    done = threading.Event()
    answered: Counter[str] = Counter()
    failures: list[Exception] = []

    def send(rows: Iterable[str]) -> None:
        try:
            while not done.is_set():
                for row in rows:
                    answered[_invoke(story, row)[0]] += 1
                    if done.is_set():
                        return
        except (BotoCoreError, ClientError, WalkFailed) as error:
            failures.append(error)  # told below, in the thread that can
        except BaseException:
            failures.append(RuntimeError("the sending thread broke off"))
            raise

    sender = threading.Thread(target=send, args=(story.trained.rows,), daemon=True)
    sender.start()
    try:
        story.calls("sm", "update_endpoint", EndpointName=story.name, EndpointConfigName=config)
        story.calls.wait("endpoint_in_service", EndpointName=story.name)
    finally:
        done.set()
        sender.join()
    if failures:
        raise WalkFailed(f"A request failed during the update: {failures[0]}") from failures[0]
    described = story.calls("sm", "describe_endpoint", EndpointName=story.name)
    left = [variant["VariantName"] for variant in described["ProductionVariants"]]
    if left != [NEW]:
        raise WalkFailed(f"After the update the endpoint has the variants {left}.")
    total = sum(answered.values())
    story.console.print(f"  {total} requests meanwhile, 0 failed; {NEW} is the only variant now")


def _clean_up(story: Walk) -> None:
    story.calls("sm", "delete_endpoint", EndpointName=story.name)
    story.calls.wait("endpoint_deleted", EndpointName=story.name)
    for config in story.configs:
        story.calls("sm", "delete_endpoint_config", EndpointConfigName=config)
    for model in story.models:
        story.calls("sm", "delete_model", ModelName=model)
    story.console.print("\nDeleted the endpoint, its configurations and both models.")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1024:.0f} kB"

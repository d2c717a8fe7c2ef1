"""How ``understudy shadow status`` reads and shows a test: both variants' metrics side by side.

Main functions: :func:`read_metrics`, :func:`show_test`, :func:`show_list`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

# Per row: metric, namespace, what to read, how several periods become one figure, its unit's divisor.
AWS, INSTANCES = "AWS/SageMaker", "/aws/sagemaker/Endpoints"
ROWS: tuple[tuple[str, str, str, str, float], ...] = (
    ("Invocations", "Invocations", AWS, "Sum", 1.0),
    ("Invocations per instance", "InvocationsPerInstance", AWS, "Sum", 1.0),
    ("4XX errors", "Invocation4XXErrors", AWS, "Sum", 1.0),
    ("5XX errors", "Invocation5XXErrors", AWS, "Sum", 1.0),
    ("Model errors", "InvocationModelErrors", AWS, "Sum", 1.0),
    ("Model latency, average ms", "ModelLatency", AWS, "Average", 1000.0),
    ("Model latency, p99 ms (worst period)", "ModelLatency", AWS, "p99", 1000.0),
    ("Overhead latency, average ms", "OverheadLatency", AWS, "Average", 1000.0),
    ("CPU, average %", "CPUUtilization", INSTANCES, "Average", 1.0),
    ("Memory, average %", "MemoryUtilization", INSTANCES, "Average", 1.0),
    ("Disk, average %", "DiskUtilization", INSTANCES, "Average", 1.0),
)


def read_metrics(cloudwatch: Any, told: dict[str, Any], now_s: float) -> dict[str, dict[str, float | None]]:
    """Read both variants' figures over the test's time from CloudWatch.

    Args:
        told: DescribeInferenceExperiment's answer.
        now_s: The server's clock.
    Returns:
        Per row of :data:`ROWS` the figure per variant; None where there was nothing to measure.
    """
    schedule = told["Schedule"]
    start_s = schedule["StartTime"].timestamp() // 60 * 60
    end_s = max(min(schedule["EndTime"].timestamp(), now_s), start_s) + 60
    period_s = max(60, -int(-(end_s - start_s) // (1440 * 60)) * 60)  # CloudWatch: 1440 datapoints at most
    figures: dict[str, dict[str, float | None]] = {row[0]: {} for row in ROWS}
    for variant in [one["VariantName"] for one in told["ModelVariants"]]:
        for title, metric, namespace, statistic, divisor in ROWS:
            wanted: dict[str, Any] = {"Statistics": ["Sum", "SampleCount"]}
            if statistic.startswith("p"):
                wanted = {"ExtendedStatistics": [statistic]}
            points = cloudwatch.get_metric_statistics(
                Namespace=namespace,
                MetricName=metric,
                Dimensions=[
                    {"Name": "EndpointName", "Value": told["EndpointMetadata"]["EndpointName"]},
                    {"Name": "VariantName", "Value": variant},
                ],
                StartTime=datetime.fromtimestamp(start_s, UTC),
                EndTime=datetime.fromtimestamp(end_s, UTC),
                Period=period_s,
                **wanted,
            )["Datapoints"]
            figures[title][variant] = _figure(points, statistic, divisor)
    return figures


def _figure(points: list[dict[str, Any]], statistic: str, divisor: float) -> float | None:
    if not points:
        return None
    if statistic.startswith("p"):
        return float(max(point["ExtendedStatistics"][statistic] for point in points)) / divisor
    total = float(sum(point["Sum"] for point in points))
    if statistic == "Sum":
        return total
    return total / float(sum(point["SampleCount"] for point in points)) / divisor


def as_text(value: object) -> str:
    """Write what JSON has no form for."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def show_list(tests: list[dict[str, Any]]) -> None:
    """Print ListInferenceExperiments' summaries."""
    from rich.console import Console

    if not tests:
        click.echo("No shadow tests yet. `understudy shadow start --help` shows how to begin one.")
        return
    table = _table("TEST", "STATUS", "STARTS", "ENDS", "DESCRIPTION")
    for one in tests:
        schedule = one["Schedule"]
        when = [f"{schedule[end]:%Y-%m-%d %H:%M}" for end in ("StartTime", "EndTime")]
        table.add_row(one["Name"], one["Status"], *when, one.get("Description", ""))
    Console(highlight=False).print(table)


def show_test(told: dict[str, Any]) -> None:
    """Print DescribeInferenceExperiment's answer with ``Metrics`` in it."""
    from rich.console import Console

    console = Console(highlight=False)
    schedule, mode = told["Schedule"], told["ShadowModeConfig"]
    (shadow,) = mode["ShadowModelVariants"]
    console.print(f"[bold]{told['Name']}[/bold] is {told['Status']} {told.get('StatusReason', '')}".rstrip())
    console.print(f"  {schedule['StartTime']:%Y-%m-%d %H:%M} to {schedule['EndTime']:%Y-%m-%d %H:%M} UTC")
    endpoint = told["EndpointMetadata"]
    console.print(f"  endpoint {endpoint['EndpointName']} ({endpoint.get('EndpointStatus', 'deleted')})")
    console.print(
        f"  {shadow['SamplingPercentage']} % of requests go to {shadow['ShadowModelVariantName']} too"
    )
    if "DataStorageConfig" in told:
        console.print(f"  captured in {told['DataStorageConfig']['Destination']}")
    variants = told["ModelVariants"]
    table = _table("", *(f"{one['VariantName']} ({one['Status']})" for one in variants))
    for title, figures in told["Metrics"].items():
        cells = [figures[one["VariantName"]] for one in variants]
        table.add_row(title, *("-" if cell is None else f"{cell:,.6g}" for cell in cells))
    console.print()
    console.print(table)

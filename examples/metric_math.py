"""Metrics of your own and metric math: publish samples, read them back, compute with them.

    eval "$(understudy env)"
    python examples/metric_math.py

The same calls read an endpoint's metrics: namespace AWS/SageMaker, dimensions EndpointName and VariantName.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

NAMESPACE = "Example/Shop"
cloudwatch = boto3.client("cloudwatch")
now = datetime.now(UTC)

for name, values in (("Orders", [3, 5, 4, 8]), ("Returns", [0, 1, 0, 1])):
    data = [{"MetricName": name, "Value": value, "Unit": "Count", "Timestamp": now} for value in values]
    cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data)


def metric(query_id: str, name: str, statistic: str) -> dict[str, Any]:
    """Ask for one statistic of one metric."""
    stat = {"Metric": {"Namespace": NAMESPACE, "MetricName": name}, "Period": 60, "Stat": statistic}
    return {"Id": query_id, "MetricStat": stat, "ReturnData": False}


answer = cloudwatch.get_metric_data(
    StartTime=now - timedelta(hours=1),
    EndTime=now + timedelta(minutes=2),
    MetricDataQueries=[
        metric("orders", "Orders", "Sum"),
        metric("returns", "Returns", "Sum"),
        metric("p90", "Orders", "p90"),
        {"Id": "rate", "Expression": "100 * returns / orders", "Label": "percent returned"},
        {"Id": "kept", "Expression": "orders - returns", "Label": "orders kept"},
        {"Id": "busy", "Expression": "IF(p90 > 5, p90, 0)", "Label": "p90 when busy"},
    ],
)
for result in answer["MetricDataResults"]:
    print(f"{result['Label']}: {[round(value, 1) for value in result['Values']]}")

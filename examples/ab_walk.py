"""A/B test of two models behind one endpoint, with plain boto3: runs on AWS and on Understudy unchanged.

    eval "$(understudy env)"
    python examples/ab_walk.py model1.tar.gz model2.tar.gz rows.csv

Deploys both models 50/50, sends the last 120 rows by weight and then to Variant1 by name, reads the
metrics per variant, shifts the weights to 25/75 and 0/1, drops Variant1, deletes everything.
Source: AWS's notebook "A/B Testing with Amazon SageMaker" (production variants).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3

INSTANCE_TYPE = "ml.m5.xlarge"
ROWS_SENT = 120


def main() -> None:
    """Read the command line and walk."""
    parser = argparse.ArgumentParser(description="A/B test two models behind one endpoint with boto3.")
    parser.add_argument("model", type=Path, help="model.tar.gz of Variant1")
    parser.add_argument("model2", type=Path, help="model.tar.gz of Variant2")
    parser.add_argument("rows", type=Path, help="CSV without header or label, one request per line")
    parser.add_argument("--image", default="xgboost:0.90-1", help="image of Variant1")
    parser.add_argument("--image2", default="xgboost:0.90-2", help="image of Variant2")
    parser.add_argument("--role", help="execution role; by default the caller's own")
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds between requests (AWS's notebook: 0.5)"
    )
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    options = parser.parse_args()
    seen = walk(options)
    if options.json:
        options.json.write_text(json.dumps(seen, indent=1))


def walk(options: argparse.Namespace) -> dict[str, Any]:
    """Walk the story and return what was seen."""
    sm, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
    cloudwatch, s3 = boto3.client("cloudwatch"), boto3.client("s3")
    account = boto3.client("sts").get_caller_identity()["Account"]
    role = options.role or execution_role()
    rows = options.rows.read_text().splitlines()[-ROWS_SENT:]
    started = datetime.now(UTC) - timedelta(minutes=1)
    name = f"DEMO-ab-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}"
    seen: dict[str, Any] = {"endpoint": name}

    bucket = f"understudy-ab-walk-{account}"
    s3.create_bucket(Bucket=bucket)
    variants = []
    for number, (artifact, image) in enumerate(
        ((options.model, options.image), (options.model2, options.image2)), start=1
    ):
        key = f"{name}/model{number}.tar.gz"
        s3.upload_file(str(artifact), bucket, key)
        sm.create_model(
            ModelName=f"{name}-{number}",
            ExecutionRoleArn=role,
            PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://{bucket}/{key}"},
        )
        variants.append(
            {
                "VariantName": f"Variant{number}",
                "ModelName": f"{name}-{number}",
                "InstanceType": INSTANCE_TYPE,
                "InitialInstanceCount": 1,
                "InitialVariantWeight": 0.5,
            }
        )

    def wait(waiter: str) -> None:
        sm.get_waiter(waiter).wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 900})

    def invoke(row: str, **target: str) -> tuple[str, str]:
        answer = runtime.invoke_endpoint(EndpointName=name, ContentType="text/csv", Body=row, **target)
        time.sleep(options.pause)
        return answer["InvokedProductionVariant"], answer["Body"].read().decode()

    def send(what: str, **target: str) -> None:
        seen[what] = [invoke(row, **target) for row in rows]
        print(f"{what}: {dict(sorted(Counter(variant for variant, _ in seen[what]).items()))}")

    def shift(weight: float, weight2: float) -> None:
        sm.update_endpoint_weights_and_capacities(
            EndpointName=name,
            DesiredWeightsAndCapacities=[
                {"VariantName": "Variant1", "DesiredWeight": weight},
                {"VariantName": "Variant2", "DesiredWeight": weight2},
            ],
        )
        wait("endpoint_in_service")

    def invocations(variant: str) -> float:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            StartTime=started,
            EndTime=datetime.now(UTC) + timedelta(minutes=2),
            Period=60,
            Statistics=["Sum"],
            Dimensions=[
                {"Name": "EndpointName", "Value": name},
                {"Name": "VariantName", "Value": variant},
            ],
        )["Datapoints"]
        return sum(point["Sum"] for point in points)

    sm.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants)
    sm.create_endpoint(EndpointName=name, EndpointConfigName=name)
    wait("endpoint_in_service")
    print(f"{name} is InService")

    send("by weight 0.5/0.5")
    send("to Variant1", TargetVariant="Variant1")
    send("to Variant2", TargetVariant="Variant2")
    sent = Counter(variant for what in seen if what != "endpoint" for variant, _ in seen[what])
    deadline = time.monotonic() + 120  # AWS shows metrics after a minute, Understudy after seconds
    while True:
        seen["Invocations"] = {variant: invocations(variant) for variant in ("Variant1", "Variant2")}
        if seen["Invocations"] == dict(sent) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print(f"CloudWatch Invocations: {seen['Invocations']}")

    shift(0.25, 0.75)
    send("by weight 0.25/0.75")
    seen["config while shifting"] = sm.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    shift(0.0, 1.0)
    send("by weight 0/1")
    send("to Variant1 at weight 0", TargetVariant="Variant1")

    sm.create_endpoint_config(EndpointConfigName=f"{name}-2", ProductionVariants=variants[1:])
    sm.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-2")
    wait("endpoint_in_service")
    described = sm.describe_endpoint(EndpointName=name)
    seen["variants after update"] = [variant["VariantName"] for variant in described["ProductionVariants"]]
    send("after update")

    sm.delete_endpoint(EndpointName=name)
    wait("endpoint_deleted")
    for config in (name, f"{name}-2"):
        sm.delete_endpoint_config(EndpointConfigName=config)
    for variant in variants:
        sm.delete_model(ModelName=variant["ModelName"])
    print("Deleted everything.")
    return seen


def execution_role() -> str:
    """Give the ARN of the role that the caller has assumed."""
    arn = boto3.client("sts").get_caller_identity()["Arn"]
    role_name = arn.split("/")[1]
    return str(boto3.client("iam").get_role(RoleName=role_name)["Role"]["Arn"])


if __name__ == "__main__":
    main()

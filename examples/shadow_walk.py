"""Shadow testing in both its ways, with plain boto3: runs on AWS and on Understudy unchanged.

    eval "$(understudy env)"
    python examples/shadow_walk.py model1.tar.gz model2.tar.gz rows.csv

Scenario 2 of AWS's blog post first, self-service: an endpoint configuration with a shadow variant at
weight 0.5, every row ten times, CloudWatch's metrics of both variants side by side, promotion by a new
configuration and UpdateEndpoint.  Then scenario 1, managed: an inference experiment on the endpoint, with
its requests and answers captured, ended by promoting the first model back.  All is deleted at the end.

Source: AWS's blog post "Minimize the production impact of ML model updates with Amazon SageMaker shadow
testing" and its notebook; corrected where the post's listings lost lines.
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
PRODUCTION, SHADOW = "production", "shadow"
TIMES = 10  # each row is sent so often, as in the post
METRICS = (
    ("Invocations", "Sum"),
    ("InvocationsPerInstance", "Sum"),
    ("Invocation4XXErrors", "Sum"),
    ("Invocation5XXErrors", "Sum"),
    ("ModelLatency", "Average"),
    ("OverheadLatency", "Average"),
)


def main() -> None:
    """Read the command line and walk."""
    parser = argparse.ArgumentParser(description="Shadow test a model with boto3, self-service and managed.")
    parser.add_argument("model", type=Path, help="model.tar.gz that serves")
    parser.add_argument("model2", type=Path, help="model.tar.gz to test")
    parser.add_argument("rows", type=Path, help="CSV without header or label, one request per line")
    parser.add_argument("--image", default="xgboost:0.90-1", help="image of the first model")
    parser.add_argument("--image2", default="xgboost:0.90-2", help="image of the second model")
    parser.add_argument("--role", help="execution role; by default the caller's own")
    parser.add_argument("--requests", type=int, default=3000, help="how many to send  [3000]")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between requests (the post: 0.01)")
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    options = parser.parse_args()
    seen = Walk(options).walk()
    if options.json:
        options.json.write_text(json.dumps(seen, indent=1))


class Walk:
    """The story, and what was seen on the way."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sm, self.runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
        self.cloudwatch, self.s3 = boto3.client("cloudwatch"), boto3.client("s3")
        self.name = f"xgb-prod-shadow-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}"[:50]
        self.models = (f"{self.name}-m1", f"{self.name}-m2")
        self.bucket = f"understudy-shadow-walk-{boto3.client('sts').get_caller_identity()['Account']}"
        self.role = options.role or execution_role()
        self.configs: list[str] = []
        self.seen: dict[str, Any] = {"endpoint": self.name, "bucket": self.bucket}

    def walk(self) -> dict[str, Any]:
        """Walk both scenarios and return what was seen."""
        self.create_models()
        self.self_service()
        self.managed()
        self.clean_up()
        return self.seen

    def create_models(self) -> None:
        """Step 1: upload both artifacts and name them as models."""
        self.s3.create_bucket(Bucket=self.bucket)
        images = (self.options.image, self.options.image2)
        artifacts = (self.options.model, self.options.model2)
        for name, artifact, image in zip(self.models, artifacts, images, strict=True):
            key = f"{self.name}/{name}.tar.gz"
            self.s3.upload_file(str(artifact), self.bucket, key)
            self.sm.create_model(
                ModelName=name,
                ExecutionRoleArn=self.role,
                Containers=[{"Image": image, "ModelDataUrl": f"s3://{self.bucket}/{key}"}],
            )

    # --- scenario 2: with the endpoint's own calls ---------------------------------------------------

    def self_service(self) -> None:
        """Steps 2 to 5 of the post: deploy both, invoke, compare, promote."""
        config = self.create_config(
            "shadow",
            ProductionVariants=[variant(PRODUCTION, self.models[0], 2, 1.0)],
            ShadowProductionVariants=[variant(SHADOW, self.models[1], 1, 0.5)],
        )
        self.sm.create_endpoint(EndpointName=self.name, EndpointConfigName=config)
        self.wait()
        described = self.sm.describe_endpoint(EndpointName=self.name)
        self.seen["shadow variants"] = [one["VariantName"] for one in described["ShadowProductionVariants"]]

        started = datetime.now(UTC) - timedelta(minutes=1)
        self.seen["shadowed"] = answers = self.send(self.options.requests)
        print(f"{len(answers)} requests, answered by {dict(Counter(who for who, _ in answers))}")
        self.seen["metrics"] = self.metrics(started, len(answers))
        for metric, figures in self.seen["metrics"].items():
            print(f"  {metric}: " + ", ".join(f"{who} {figure:g}" for who, figure in figures.items()))

        promoted = self.create_config(
            "promoted", ProductionVariants=[variant(SHADOW, self.models[1], 2, 1.0)]
        )
        self.sm.update_endpoint(EndpointName=self.name, EndpointConfigName=promoted)
        self.wait()
        described = self.sm.describe_endpoint(EndpointName=self.name)
        self.seen["after promotion"] = [one["VariantName"] for one in described["ProductionVariants"]]
        self.seen["shadows after promotion"] = described.get("ShadowProductionVariants", [])
        self.seen["promoted"] = self.send(20)

    def create_config(self, purpose: str, **variants: Any) -> str:
        """Create an endpoint configuration and remember it for the end."""
        name = f"{self.name}-{purpose}"
        self.sm.create_endpoint_config(EndpointConfigName=name, **variants)
        self.configs.append(name)
        return name

    def wait(self, waiter: str = "endpoint_in_service") -> None:
        """Wait for the endpoint."""
        config = {"Delay": 1, "MaxAttempts": 900}
        self.sm.get_waiter(waiter).wait(EndpointName=self.name, WaiterConfig=config)

    def send(self, requests: int) -> list[tuple[str, str]]:
        """Send rows one after the other, each ten times; return who answered and what."""
        rows = self.options.rows.read_text().splitlines()
        answers = []
        for number in range(requests):
            row = rows[number // TIMES % len(rows)]
            answer = self.runtime.invoke_endpoint(EndpointName=self.name, ContentType="text/csv", Body=row)
            answers.append((answer["InvokedProductionVariant"], answer["Body"].read().decode()))
            time.sleep(self.options.pause)
        return answers

    def metrics(self, started: datetime, sent: int) -> dict[str, dict[str, float]]:
        """Read both variants' metrics once CloudWatch has all of production's and the shadow's settle."""
        deadline = time.monotonic() + 180  # AWS shows metrics after a minute, Understudy after seconds
        before: dict[str, dict[str, float]] = {}
        while True:
            now = {
                metric: {who: self.metric(metric, statistic, who, started) for who in (PRODUCTION, SHADOW)}
                for metric, statistic in METRICS
            }
            settled = now == before and now["Invocations"][PRODUCTION] == sent
            if settled or time.monotonic() > deadline:
                return now
            before = now
            time.sleep(2)

    def metric(self, metric: str, statistic: str, variant_name: str, started: datetime) -> float:
        """Read one metric of one variant since the start, latencies in microseconds."""
        points = self.cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=metric,
            StartTime=started,
            EndTime=datetime.now(UTC) + timedelta(minutes=2),
            Period=60,
            Statistics=["Sum", "SampleCount"],
            Dimensions=[
                {"Name": "EndpointName", "Value": self.name},
                {"Name": "VariantName", "Value": variant_name},
            ],
        )["Datapoints"]
        total = float(sum(point["Sum"] for point in points))
        count = float(sum(point["SampleCount"] for point in points))
        return total if statistic == "Sum" or not count else total / count

    # --- scenario 1: managed -------------------------------------------------------------------------

    def managed(self) -> None:
        """A test of the first model beside the second, which serves by now; then promotion."""
        test = f"{self.name}-test"
        destination = f"s3://{self.bucket}/captured"
        self.sm.create_inference_experiment(
            Name=test,
            Type="ShadowMode",
            RoleArn=self.role,
            EndpointName=self.name,
            Description="Was the old model any worse?",
            ModelVariants=[
                model_variant(SHADOW, self.models[1], 2),
                model_variant("old", self.models[0], 1),
            ],
            DataStorageConfig={
                "Destination": destination,
                "ContentType": {"CsvContentTypes": ["text/csv"]},
            },
            ShadowModeConfig={
                "SourceModelVariantName": SHADOW,
                "ShadowModelVariants": [{"ShadowModelVariantName": "old", "SamplingPercentage": 100}],
            },
        )
        told = self.wait_for_test(test)
        duration = told["Schedule"]["EndTime"] - told["Schedule"]["StartTime"]
        print(f"{test} is {told['Status']} for {duration.days} days")
        self.seen["test days"] = duration.days
        self.seen["managed"] = self.send(50)
        self.seen["captured"] = self.captured(50)
        self.sm.stop_inference_experiment(
            Name=test,
            ModelVariantActions={SHADOW: "Remove", "old": "Promote"},
            # Sized as production was: "retain production variant settings" of AWS's console.
            DesiredModelVariants=[model_variant("old", self.models[0], 2)],
            DesiredState="Completed",
            Reason="It was not.",
        )
        told = self.wait_for_test(test)
        self.seen["test ended"] = [told["Status"], told.get("StatusReason")]
        self.seen["test variants"] = {one["VariantName"]: one["Status"] for one in told["ModelVariants"]}
        self.configs.append(told["EndpointMetadata"]["EndpointConfigName"])
        described = self.sm.describe_endpoint(EndpointName=self.name)
        self.seen["after the test"] = [
            [one["VariantName"], one["CurrentInstanceCount"]] for one in described["ProductionVariants"]
        ]
        self.seen["after"] = self.send(20)
        self.sm.delete_inference_experiment(Name=test)

    def wait_for_test(self, name: str) -> dict[str, Any]:
        """Wait until a test runs or has ended."""
        while True:
            told: dict[str, Any] = self.sm.describe_inference_experiment(Name=name)
            if told["Status"] in ("Running", "Completed", "Cancelled"):
                return told
            time.sleep(1)

    def captured(self, sent: int) -> dict[str, list[list[str]]]:
        """Read the captured (request, answer) pairs per variant; files come a little later than answers."""
        deadline = time.monotonic() + 300
        while True:
            pairs = {who: self.pairs(f"captured/{self.name}/{who}/") for who in (SHADOW, "old")}
            if all(len(found) >= sent for found in pairs.values()) or time.monotonic() > deadline:
                return pairs
            time.sleep(1)

    def pairs(self, prefix: str) -> list[list[str]]:
        """Read the (request, answer) pairs below a prefix."""
        found = []
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for item in [one for page in pages for one in page.get("Contents", [])]:
            if not item["Key"].endswith(".jsonl"):
                continue
            body = self.s3.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read().decode()
            for line in body.splitlines():
                data = json.loads(line)["captureData"]
                found.append([data["endpointInput"]["data"], data["endpointOutput"]["data"]])
        return found

    # --- the end -------------------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Step 6: delete the endpoint, the configurations, the models and the captured files."""
        self.sm.delete_endpoint(EndpointName=self.name)
        self.wait("endpoint_deleted")
        for config in self.configs:
            self.sm.delete_endpoint_config(EndpointConfigName=config)
        for model in self.models:
            self.sm.delete_model(ModelName=model)
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        for item in [one for page in pages for one in page.get("Contents", [])]:
            self.s3.delete_object(Bucket=self.bucket, Key=item["Key"])
        self.s3.delete_bucket(Bucket=self.bucket)
        print("Deleted everything.")


def variant(name: str, model: str, count: int, weight: float) -> dict[str, Any]:
    """Write a variant of an endpoint configuration."""
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": INSTANCE_TYPE,
        "InitialInstanceCount": count,
        "InitialVariantWeight": weight,
    }


def model_variant(name: str, model: str, count: int) -> dict[str, Any]:
    """Write a variant of an inference experiment."""
    return {
        "VariantName": name,
        "ModelName": model,
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": {"InstanceType": INSTANCE_TYPE, "InstanceCount": count},
        },
    }


def execution_role() -> str:
    """Give the ARN of the role that the caller has assumed."""
    arn = boto3.client("sts").get_caller_identity()["Arn"]
    return str(boto3.client("iam").get_role(RoleName=arn.split("/")[1])["Role"]["Arn"])


if __name__ == "__main__":
    main()

"""The A/B walk with the SageMaker Python SDK v2, written for AWS: runs in an environment with sagemaker<3.

Usage: sdk_v2_walk.py MODEL.tar.gz MODEL2.tar.gz ROWS.csv OUT.json
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import sagemaker
from sagemaker import get_execution_role, image_uris
from sagemaker.s3 import S3Uploader
from sagemaker.session import production_variant

path, path2, rows_path, out_path = sys.argv[1:]
sm_session = sagemaker.Session()
role = get_execution_role()
bucket = sm_session.default_bucket()
region = sm_session.boto_region_name
sm, sm_runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
cw = boto3.client("cloudwatch")
# The SDK's own wait looks once in 30 s, as on AWS: it is the SDK's, its pauses are not.
pause = time.sleep
time.sleep = lambda seconds: pause(min(seconds, 0.5))
stamp = f"{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
seen = {"role": role, "bucket": bucket}

model_url = S3Uploader.upload(local_path=path, desired_s3_uri=f"s3://{bucket}/DEMO-VariantTargeting")
model_url2 = S3Uploader.upload(local_path=path2, desired_s3_uri=f"s3://{bucket}/DEMO-VariantTargeting")
model_name, model_name2 = f"DEMO-xgb-churn-pred-{stamp}", f"DEMO-xgb-churn-pred2-{stamp}"
image_uri = image_uris.retrieve("xgboost", region, "0.90-1")
image_uri2 = image_uris.retrieve("xgboost", region, "0.90-2")
seen["images"] = [image_uri, image_uri2]
definitions = {"Image": image_uri, "ModelDataUrl": model_url}
sm_session.create_model(name=model_name, role=role, container_defs=definitions)
definitions = {"Image": image_uri2, "ModelDataUrl": model_url2}
sm_session.create_model(name=model_name2, role=role, container_defs=definitions)
variant1 = production_variant(
    model_name=model_name,
    instance_type="ml.m5.xlarge",
    initial_instance_count=1,
    variant_name="Variant1",
    initial_weight=0.5,
)
variant2 = production_variant(
    model_name=model_name2,
    instance_type="ml.m5.xlarge",
    initial_instance_count=1,
    variant_name="Variant2",
    initial_weight=0.5,
)
endpoint_name = f"DEMO-xgb-churn-pred-{stamp}"
seen["endpoint"] = endpoint_name
started = datetime.now(UTC) - timedelta(minutes=1)
sm_session.endpoint_from_production_variants(name=endpoint_name, production_variants=[variant1, variant2])

rows = Path(rows_path).read_text().splitlines()[-120:]


def send(what, **target):
    seen[what] = []
    for row in rows:
        answer = sm_runtime.invoke_endpoint(
            EndpointName=endpoint_name, ContentType="text/csv", Body=row, **target
        )
        seen[what].append([answer["InvokedProductionVariant"], answer["Body"].read().decode()])


def invocations(variant):
    points = cw.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        StartTime=started,
        EndTime=datetime.now(UTC) + timedelta(minutes=2),
        Period=60,
        Statistics=["Sum"],
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint_name},
            {"Name": "VariantName", "Value": variant},
        ],
    )["Datapoints"]
    return sum(point["Sum"] for point in points)


def shift(weight, weight2):
    sm.update_endpoint_weights_and_capacities(
        EndpointName=endpoint_name,
        DesiredWeightsAndCapacities=[
            {"DesiredWeight": weight, "VariantName": variant1["VariantName"]},
            {"DesiredWeight": weight2, "VariantName": variant2["VariantName"]},
        ],
    )
    wait("endpoint_in_service")


def wait(waiter):
    sm.get_waiter(waiter).wait(EndpointName=endpoint_name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})


send("by weight 0.5/0.5")
send("to Variant1", TargetVariant="Variant1")
send("to Variant2", TargetVariant="Variant2")
sent = {"Variant1": 0, "Variant2": 0}
for what in ("by weight 0.5/0.5", "to Variant1", "to Variant2"):
    for variant, _ in seen[what]:
        sent[variant] += 1
deadline = time.monotonic() + 20
while True:
    seen["Invocations"] = {variant: invocations(variant) for variant in sent}
    if seen["Invocations"] == sent or time.monotonic() > deadline:
        break
    time.sleep(0.2)
shift(0.25, 0.75)
send("by weight 0.25/0.75")
seen["config while shifting"] = sm.describe_endpoint(EndpointName=endpoint_name)["EndpointConfigName"]
shift(0.0, 1.0)
send("by weight 0/1")
send("to Variant1 at weight 0", TargetVariant="Variant1")

config = f"{endpoint_name}-2"
sm.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant2])
sm.update_endpoint(EndpointName=endpoint_name, EndpointConfigName=config)
wait("endpoint_in_service")
described = sm.describe_endpoint(EndpointName=endpoint_name)
seen["variants after update"] = [variant["VariantName"] for variant in described["ProductionVariants"]]
send("after update")
sm_session.delete_endpoint(endpoint_name)
wait("endpoint_deleted")
for name in (endpoint_name, config):
    sm_session.delete_endpoint_config(name)
for name in (model_name, model_name2):
    sm_session.delete_model(name)
Path(out_path).write_text(json.dumps(seen))

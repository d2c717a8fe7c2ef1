"""A scikit-learn model behind an endpoint: train, pack, deploy, ask, delete.

    eval "$(understudy env)"
    python examples/sklearn_model.py

Runs on AWS unchanged with an image and a role of yours.
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import boto3
import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

NAME, BUCKET = "example-sklearn", "understudy-example-sklearn"
ROLE = "arn:aws:iam::123456789012:role/understudy"

iris = load_iris()
forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(iris.data, iris.target)
with tempfile.TemporaryDirectory() as scratch:
    joblib.dump(forest, Path(scratch) / "model.joblib")
    with tarfile.open(Path(scratch) / "model.tar.gz", "w:gz") as archive:
        archive.add(Path(scratch) / "model.joblib", "model.joblib")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(f"{scratch}/model.tar.gz", BUCKET, "model.tar.gz")

sm, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
container = {"Image": "sklearn", "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
sm.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, PrimaryContainer=container)
variant = {
    "VariantName": "AllTraffic",
    "ModelName": NAME,
    "InstanceType": "ml.m5.large",
    "InitialInstanceCount": 1,
}
sm.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
sm.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sm.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 300})

rows = "\n".join(",".join(map(str, row)) for row in iris.data[::30])
for accept in ("text/csv", "application/json"):
    answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType="text/csv", Accept=accept, Body=rows)
    print(f"{accept}: {answer['Body'].read().decode()!r}")
print(f"the model itself: {forest.predict(iris.data[::30]).tolist()}")

sm.delete_endpoint(EndpointName=NAME)
sm.get_waiter("endpoint_deleted").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
sm.delete_endpoint_config(EndpointConfigName=NAME)
sm.delete_model(ModelName=NAME)

"""Two containers in series: the first one's answer is the second one's request.

eval "$(understudy env)"
python examples/pipeline.py
"""

from __future__ import annotations

import io
import tarfile

import boto3

NAME, BUCKET = "example-pipeline", "understudy-example-pipeline"
ROLE = "arn:aws:iam::123456789012:role/understudy"
SCALE = """
def model_fn(model_dir):
    return 0.5

def predict_fn(rows, factor):  # rows: what input_fn's default makes of text/csv
    return [[factor * value for value in row] for row in rows]

def output_fn(rows, accept):
    return "\\n".join(",".join(map(str, row)) for row in rows), "text/csv"
"""
TOTAL = """
def model_fn(model_dir):
    return None

def predict_fn(rows, model):
    return [sum(row) for row in rows]
"""


def packed(code: str) -> bytes:
    """Pack code/inference.py as model.tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(code.encode())
        archive.addfile(info, io.BytesIO(code.encode()))
    return buffer.getvalue()


s3, sm, runtime = (boto3.client(service) for service in ("s3", "sagemaker", "sagemaker-runtime"))
s3.create_bucket(Bucket=BUCKET)
containers = []
for step, code in (("scale", SCALE), ("total", TOTAL)):
    s3.put_object(Bucket=BUCKET, Key=f"{step}.tar.gz", Body=packed(code))
    containers.append({"Image": "python", "ModelDataUrl": f"s3://{BUCKET}/{step}.tar.gz"})
sm.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, Containers=containers)
one = {"VariantName": "v1", "ModelName": NAME, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
sm.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[one])
sm.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sm.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 300})
answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType="text/csv", Body="1,2,3\n4,5,6")
print(answer["Body"].read().decode())
sm.delete_endpoint(EndpointName=NAME)
sm.delete_endpoint_config(EndpointConfigName=NAME)
sm.delete_model(ModelName=NAME)

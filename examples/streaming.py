"""An answer that comes in parts: predict_fn is a generator, InvokeEndpointWithResponseStream reads it.

eval "$(understudy env)"
python examples/streaming.py
"""

from __future__ import annotations

import io
import tarfile
import time

import boto3

NAME, BUCKET = "example-streaming", "understudy-example-streaming"
ROLE = "arn:aws:iam::123456789012:role/understudy"
CODE = b"""
import time

def model_fn(model_dir):
    return "to be or not to be".split()

def input_fn(body, content_type):
    return int(body)

def predict_fn(count, words):
    for number in range(count):
        time.sleep(0.1)  # a slow model: the caller has each word as soon as it is there
        yield (words[number % len(words)] + " ").encode()
"""

buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
    info = tarfile.TarInfo("code/inference.py")
    info.size = len(CODE)
    archive.addfile(info, io.BytesIO(CODE))
s3, sm, runtime = (boto3.client(service) for service in ("s3", "sagemaker", "sagemaker-runtime"))
s3.create_bucket(Bucket=BUCKET)
s3.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=buffer.getvalue())
container = {"Image": "python", "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
sm.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, PrimaryContainer=container)
one = {"VariantName": "v1", "ModelName": NAME, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
sm.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[one])
sm.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sm.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 300})

started = time.monotonic()
answer = runtime.invoke_endpoint_with_response_stream(EndpointName=NAME, ContentType="text/plain", Body=b"6")
for event in answer["Body"]:
    print(f"{time.monotonic() - started:.1f} s: {event['PayloadPart']['Bytes'].decode()}")
sm.delete_endpoint(EndpointName=NAME)
sm.delete_endpoint_config(EndpointConfigName=NAME)
sm.delete_model(ModelName=NAME)

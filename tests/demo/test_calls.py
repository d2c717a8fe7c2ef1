"""The code that the demo prints is what it did, and Python."""

from __future__ import annotations

import ast
from typing import Any

import boto3
from botocore.stub import Stubber

from understudy.demo.calls import Calls


def client(service: str) -> Any:
    return boto3.client(service, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")


def test_changes_are_all_shown_and_reads_once() -> None:
    clients = {name: client(name) for name in ("s3", "sagemaker", "sagemaker-runtime", "cloudwatch")}
    stubs = {name: Stubber(made) for name, made in clients.items()}
    calls = Calls(lambda service: clients[service])
    for _ in range(2):
        stubs["sagemaker"].add_response("delete_model", {}, {"ModelName": "m"})
        stubs["sagemaker-runtime"].add_response("invoke_endpoint", {"Body": b"1"})
        stubs["sagemaker"].add_response(
            "describe_endpoint",
            {
                "EndpointName": "e",
                "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/e",
                "EndpointConfigName": "c",
                "EndpointStatus": "InService",
                "CreationTime": 1.0,
                "LastModifiedTime": 1.0,
            },
            {"EndpointName": "e"},
        )
    for stub in stubs.values():
        stub.activate()
    for row in ("1,2", "3,4"):
        calls("sm", "delete_model", ModelName="m")
        calls("runtime", "invoke_endpoint", as_code={"Body": "row"}, EndpointName="e", Body=row)
        calls.wait("endpoint_in_service", EndpointName="e")
    for stub in stubs.values():
        stub.assert_no_pending_responses()
    code = calls.code("1,2")
    ast.parse(code)
    assert code.count("sm.delete_model(ModelName='m')") == 2
    assert code.count("runtime.invoke_endpoint(EndpointName='e', Body=row)") == 1
    assert code.count('sm.get_waiter("endpoint_in_service").wait(') == 2
    assert 'row = "1,2"' in code
    assert "3,4" not in code

"""The control plane through real boto3, over HTTP: errors' codes, paginators, waiters, tags, identity.

Models do not run here: records are set to what control would make of them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.exceptions
import pytest
import uvicorn

from understudy.aws.gateway import Gateway
from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.names import Place
from understudy.core.ports import Delete, Put
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.records import SqlRecords, open_records
from understudy.system import RealClock, RealEntropy

pytestmark = pytest.mark.journey

START_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Face:
    """A gateway that listens, and the records behind it."""

    url: str
    records: SqlRecords

    def client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secret",
        )

    def become(self, name: str, status: EndpointStatus, reason: str | None = None) -> None:
        """Make the record what control makes of it in the end."""
        stored = self.records.get(Endpoint, name)
        assert stored is not None
        fleet = stored.value.fleet
        if stored.value.update is not None and stored.value.update.fleet is not None:
            fleet = stored.value.update.fleet
        done = replace(stored.value, status=status, update=None, failure_reason=reason, fleet=fleet)
        self.records.commit([Put(done, stored.version)])


@pytest.fixture
def face(tmp_path: Path) -> Iterator[Face]:
    """A gateway over SQLite records under uvicorn, in a thread."""
    clock = RealClock()
    records = open_records(f"sqlite:///{tmp_path}/records.db")
    objects = MemoryObjects(clock)
    services = Services(
        records=records,
        buckets=objects,
        objects=objects,
        series=cast(Any, None),
        logs=cast(Any, None),
        stages=cast(Any, None),
        evidence=cast(Any, None),
        assignments=cast(Any, None),
        outcomes=cast(Any, None),
        clock=clock,
        entropy=RealEntropy(),
        place=Place(),
        endpoint_url="",
        nudge=lambda: None,
    )
    gateway = Gateway(services, OPERATIONS, lambda: {"AKIAEXAMPLE": "secret"})
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(gateway, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    deadline_s = time.monotonic() + START_PATIENCE_S
    while not server.started and thread.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.started
    yield Face(f"http://127.0.0.1:{listening.getsockname()[1]}", records)
    server.should_exit = True
    thread.join(START_PATIENCE_S)
    assert not thread.is_alive()
    listening.close()
    records.close()


@pytest.fixture
def sagemaker(face: Face) -> Any:
    """A client, a model and a configuration."""
    client = face.client("sagemaker")
    client.create_model(ModelName="churn", PrimaryContainer={"Image": "xgboost:1.7"})
    client.create_endpoint_config(EndpointConfigName="config", ProductionVariants=[variant()])
    return client


def variant(**members: Any) -> dict[str, Any]:
    return {
        "VariantName": "AllTraffic",
        "ModelName": "churn",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        **members,
    }


def test_an_endpoint_from_wish_to_end(face: Face, sagemaker: Any) -> None:
    arn = sagemaker.create_endpoint(EndpointName="ep", EndpointConfigName="config")["EndpointArn"]
    described = sagemaker.describe_endpoint(EndpointName="ep")
    assert described["EndpointStatus"] == "Creating"
    assert described["CreationTime"].tzinfo is not None
    with pytest.raises(sagemaker.exceptions.ClientError) as caught:
        sagemaker.delete_endpoint(EndpointName="ep")
    assert caught.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": f'Cannot update in-progress endpoint "{arn}".',
    }
    face.become("ep", EndpointStatus.IN_SERVICE)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="ep", WaiterConfig={"Delay": 0, "MaxAttempts": 1}
    )
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="ep", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredWeight": 0.0}]
    )
    described = sagemaker.describe_endpoint(EndpointName="ep")
    assert described["EndpointStatus"] == "Updating"
    assert described["ProductionVariants"][0]["DesiredWeight"] == 0.0
    face.become("ep", EndpointStatus.IN_SERVICE)
    sagemaker.update_endpoint(EndpointName="ep", EndpointConfigName="config")
    pending = sagemaker.describe_endpoint(EndpointName="ep")["PendingDeploymentSummary"]
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Creating"
    face.become("ep", EndpointStatus.IN_SERVICE)
    assert sagemaker.delete_endpoint(EndpointName="ep")["ResponseMetadata"]["HTTPStatusCode"] == 200
    stored = face.records.get(Endpoint, "ep")
    assert stored is not None
    face.records.commit([Delete(Endpoint, "ep", stored.version)])
    sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName="ep", WaiterConfig={"Delay": 0, "MaxAttempts": 1}
    )


def test_a_waiter_ends_on_failure(face: Face, sagemaker: Any) -> None:
    sagemaker.create_endpoint(EndpointName="ep", EndpointConfigName="config")
    face.become("ep", EndpointStatus.FAILED, "Variant AllTraffic: the model can't be loaded.")
    waiter = sagemaker.get_waiter("endpoint_in_service")
    with pytest.raises(botocore.exceptions.WaiterError) as caught:
        waiter.wait(EndpointName="ep", WaiterConfig={"Delay": 0, "MaxAttempts": 1})
    assert caught.value.last_response["FailureReason"] == "Variant AllTraffic: the model can't be loaded."
    with pytest.raises(botocore.exceptions.WaiterError) as caught:
        waiter.wait(EndpointName="absent", WaiterConfig={"Delay": 0, "MaxAttempts": 1})
    assert caught.value.last_response["Error"]["Code"] == "ValidationException"


def test_paginators(sagemaker: Any) -> None:
    names = [f"model-{number:02}" for number in range(23)]
    for name in names:
        sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": "i"})
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant()])
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    for operation, listed, member in (
        ("list_models", "Models", "ModelName"),
        ("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
        ("list_endpoints", "Endpoints", "EndpointName"),
    ):
        paginator = sagemaker.get_paginator(operation)
        pages = list(paginator.paginate(NameContains="model-", PaginationConfig={"PageSize": 5}))
        assert len(pages) == 5
        assert [one[member] for page in pages for one in page[listed]] == names[::-1]
        by_name = paginator.paginate(NameContains="model-", SortBy="Name", SortOrder="Ascending")
        assert [one[member] for page in by_name for one in page[listed]] == names
    with pytest.raises(sagemaker.exceptions.ClientError) as caught:
        sagemaker.list_models(NextToken="made up")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_echo_and_tags(sagemaker: Any) -> None:
    tags = [{"Key": "team", "Value": "growth"}]
    arn = sagemaker.create_model(
        ModelName="tagged",
        Containers=[{"Image": "a"}, {"Image": "b", "Environment": {"K": "ü"}}],
        ExecutionRoleArn="arn:aws:iam::123456789012:role/understudy",
        Tags=tags,
    )["ModelArn"]
    described = sagemaker.describe_model(ModelName="tagged")
    assert described["Containers"] == [{"Image": "a"}, {"Image": "b", "Environment": {"K": "ü"}}]
    assert described["EnableNetworkIsolation"] is False
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    assert [tag for page in pages for tag in page["Tags"]] == tags
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "risk"}])
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["absent"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "risk"}]
    described = sagemaker.describe_endpoint_config(EndpointConfigName="config")
    assert described["ProductionVariants"] == [variant(InitialVariantWeight=1.0)]


def test_the_caller_and_its_role(face: Face) -> None:
    identity = face.client("sts").get_caller_identity()
    assert identity["Account"] == "123456789012"
    assert identity["Arn"] == "arn:aws:sts::123456789012:assumed-role/understudy/session"
    iam = face.client("iam")
    role = iam.get_role(RoleName="understudy")["Role"]
    assert role["Arn"] == "arn:aws:iam::123456789012:role/understudy"
    assert role["AssumeRolePolicyDocument"]["Version"] == "2012-10-17"
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.get_role(RoleName="other")


def test_every_refusal_reaches_the_client_as_one(sagemaker: Any) -> None:
    error = sagemaker.exceptions.ClientError
    with pytest.raises(error, match=r"Cannot create already existing model \"arn:aws:sagemaker:us-east-1"):
        sagemaker.create_model(ModelName="churn", PrimaryContainer={"Image": "i"})
    with pytest.raises(error, match=r"Could not find endpoint configuration \"arn"):
        sagemaker.create_endpoint(EndpointName="ep", EndpointConfigName="absent")
    with pytest.raises(error, match="KmsKeyId is not supported yet"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="key", ProductionVariants=[variant()], KmsKeyId="alias/key"
        )
    with pytest.raises(error, match="Variant names must be unique"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="shadow", ProductionVariants=[variant()], ShadowProductionVariants=[variant()]
        )
    with pytest.raises(error, match="understudy:shadows=many, understudy:capture=durable"):
        sagemaker.create_endpoint_config(
            EndpointConfigName="tagged",
            ProductionVariants=[variant()],
            Tags=[{"Key": "understudy:shadow", "Value": "many"}],
        )
    with pytest.raises(sagemaker.exceptions.ResourceNotFound):
        sagemaker.list_tags(ResourceArn="arn:aws:sagemaker:us-east-1:123456789012:model/absent")

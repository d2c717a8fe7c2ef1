"""Users stay with their variant through a killed router, changed weights and an update; and every request is
counted, to the unit, in the stage by whose shares it was routed."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from understudy.core.stages import Source
from understudy.stores.assignments import SqliteAssignments
from understudy.stores.evidence import SqliteEvidence

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

ENDPOINT = "sticky-shop"
ROLE = "arn:aws:iam::123456789012:role/understudy"
USERS = [f"user-{number}" for number in range(60)]
ECHO = """\
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return body, "text/plain"
"""


def eventually(check: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + 240.0
    while not (value := check()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def sagemaker(open_server: Any) -> Iterator[Any]:
    """A client of a server with two routers, and a model that echoes."""
    client, s3 = open_server.client("sagemaker"), open_server.client("s3")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(ECHO)
        tar.addfile(member, io.BytesIO(ECHO.encode()))
    s3.create_bucket(Bucket="sticky")
    s3.put_object(Bucket="sticky", Key="echo.tar.gz", Body=archive.getvalue())
    client.create_model(
        ModelName="echo",
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": "s3://sticky/echo.tar.gz"},
    )
    yield client


def configure(sagemaker: Any, name: str, weights: dict[str, float]) -> None:
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": variant,
                "ModelName": "echo",
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": weight,
            }
            for variant, weight in weights.items()
        ],
    )


def in_service(sagemaker: Any) -> None:
    def look() -> bool:
        found = sagemaker.describe_endpoint(EndpointName=ENDPOINT)
        assert found["EndpointStatus"] != "Failed", found
        return bool(found["EndpointStatus"] == "InService")

    eventually(look, "the endpoint is not InService")


def routers(server: Any) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, or is a zombie
            if one.cmdline() and one.cmdline()[0].startswith("understudy router"):
                found.append(one)
    return found


class Callers:
    """Send requests and count who answered, as callers see it."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.seen: list[Counter[tuple[str, str]]] = []

    def homes(self, *, target: str = "") -> dict[str, str]:
        """Send every user's request over connections of their own: to either router."""
        homes = {}
        for start in range(0, len(USERS), 20):
            runtime = self._server.client("sagemaker-runtime")
            for user in USERS[start : start + 20]:
                homes[user] = self.invoke(runtime, f"user={user}", target=target)
            runtime.close()
        return homes

    def invoke(self, runtime: Any, attributes: str, *, target: str = "", inference_id: str = "") -> str:
        options = {"TargetVariant": target} if target else {}
        if inference_id:
            options["InferenceId"] = inference_id
        if attributes:
            options["CustomAttributes"] = attributes
        answer = runtime.invoke_endpoint(EndpointName=ENDPOINT, Body=b"1", **options)
        variant = str(answer["InvokedProductionVariant"])
        source = Source.TARGET if target else Source.UNIT if attributes else Source.WEIGHT
        self.seen[-1][variant, source] += 1
        return variant


def test_users_stay_and_every_request_is_counted_in_its_stage(open_server: Any, sagemaker: Any) -> None:
    tag = {"Key": "understudy:sticky", "Value": "custom-attributes.user"}
    configure(sagemaker, "first", {"A": 1.0, "B": 1.0})
    configure(sagemaker, "second", {"A": 1.0, "B": 3.0})
    created = sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName="first", Tags=[tag])
    in_service(sagemaker)
    callers = Callers(open_server)

    callers.seen.append(Counter())
    homes = callers.homes()
    assert set(homes.values()) == {"A", "B"}
    for router in routers(open_server):
        router.kill()
        router.wait(10)
        eventually(lambda: len(routers(open_server)) == 2, "a router did not come back")
        assert callers.homes() == homes
    assert set(callers.homes(target="B").values()) == {"B"}
    assert callers.homes() == homes  # a target of one request changes nothing for the next

    callers.seen.append(Counter())
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=ENDPOINT, DesiredWeightsAndCapacities=[{"VariantName": "B", "DesiredWeight": 3.0}]
    )
    in_service(sagemaker)
    after = callers.homes()
    moved = {user for user in USERS if after[user] != homes[user]}
    assert {after[user] for user in moved} == {"B"}

    callers.seen.append(Counter())
    sagemaker.update_endpoint(EndpointName=ENDPOINT, EndpointConfigName="second")
    in_service(sagemaker)
    assert callers.homes() == after  # a new fleet, the same users

    callers.seen.append(Counter())
    sagemaker.delete_tags(ResourceArn=created["EndpointArn"], TagKeys=[tag["Key"]])
    runtime = open_server.client("sagemaker-runtime")
    drawn = [callers.invoke(runtime, "", inference_id=f"order-{number}") for number in range(40)]
    runtime.close()
    _check_evidence(open_server, callers)
    _check_log(open_server, callers, drawn)
    _check_metrics(open_server, callers)


def _check_evidence(server: Any, callers: Callers) -> None:
    """What the store says of each stage is what callers saw, to the unit."""
    total = sum(sum(counts.values()) for counts in callers.seen)
    with closing(SqliteEvidence(server.data_dir / "evidence.db")) as evidence:
        eventually(
            lambda: sum(one.requests for one in evidence.totals(ENDPOINT)) >= total, "counts are missing"
        )
        stages = {stage.number: stage for stage in evidence.find(ENDPOINT)}
        found: dict[int, Counter[tuple[str, str]]] = {}
        for one in evidence.totals(ENDPOINT):
            assert one.failures == one.caller_errors == one.abandoned == 0
            assert one.model_latency_us.count == one.requests
            found.setdefault(one.stage, Counter())[one.variant, one.source] += one.requests
        rows = evidence.read(ENDPOINT, limit=100_000)
    served = [found[number] for number in sorted(found)]
    assert served == callers.seen
    assert sum(row.counts.requests for row in rows) == total
    first, second, third, last = (stages[number] for number in sorted(found))
    assert [[stage.share(arm) for arm in stage.arms] for stage in (first, second, third)] == [
        [0.5, 0.5],
        [0.25, 0.75],
        [0.25, 0.75],
    ]
    assert {arm.config_name for arm in second.arms} == {"first"}
    assert {arm.config_name for arm in third.arms} == {"second"}
    assert (third.sticky, last.sticky) == ("custom-attributes.user", "")
    assert last.ended_at_s is None
    numbers = sorted(stages)
    assert numbers == list(range(1, len(numbers) + 1))


def _check_log(server: Any, callers: Callers, drawn: list[str]) -> None:
    """Each request of the sticky stages, and each identified one, has one record, or is counted as lost."""
    total = sum(sum(counts.values()) for counts in callers.seen)

    def outcomes() -> Counter[str]:
        found: Counter[str] = Counter()
        for variant in ("A", "B"):
            for outcome in ("logged", "queue", "disk", "shutdown"):
                found[outcome] += _sum(server, "AssignmentRecords", variant, "Outcome", outcome)
        return found

    eventually(lambda: sum(outcomes().values()) >= total, "assignments are missing")
    told = outcomes()
    assert sum(told.values()) == total
    assert not told["queue"] and not told["disk"]
    with closing(SqliteAssignments(server.data_dir / "assignments.db")) as assignments:
        kept = [one.assignment for one in assignments.read(ENDPOINT, limit=100_000)]
        orders = assignments.find(ENDPOINT, [f"order-{number}" for number in range(41)])
    assert len(kept) == told["logged"]  # "shutdown" died with a killed router
    assert Counter((one.variant, one.source) for one in kept) <= sum(callers.seen, Counter())
    assert {one.status for one in kept} == {200}
    assert [orders[f"order-{number}"].variant for number in range(40)] == drawn
    assert "order-40" not in orders
    assert {one.unit for one in kept if one.source == Source.UNIT} == set(USERS)


def _check_metrics(server: Any, callers: Callers) -> None:
    for variant in ("A", "B"):
        for source in Source:
            wanted = sum(counts[variant, source] for counts in callers.seen)
            eventually(
                lambda variant=variant, source=source, wanted=wanted: (
                    _sum(server, "AssignedRequests", variant, "Source", source) == wanted
                ),
                f"requests of {variant} by {source} are not {wanted}",
            )


def _sum(server: Any, metric: str, variant: str, dimension: str, value: str) -> int:
    cloudwatch = server.client("cloudwatch")
    points = cloudwatch.get_metric_statistics(
        Namespace="Understudy",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": ENDPOINT},
            {"Name": "VariantName", "Value": variant},
            {"Name": dimension, "Value": value},
        ],
        StartTime=time.time() - 3600,
        EndTime=time.time() + 60,
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    cloudwatch.close()
    return round(sum(point["Sum"] for point in points))


def test_tags_that_say_nothing_are_refused(sagemaker: Any) -> None:
    configure(sagemaker, "refused", {"A": 1.0})
    for key, value in (("understudy:sticky", "ip-address"), ("understudy:stikcy", "session-id")):
        with pytest.raises(ClientError, match="endpoint tags that Understudy knows are") as caught:
            sagemaker.create_endpoint(
                EndpointName="refused", EndpointConfigName="refused", Tags=[{"Key": key, "Value": value}]
            )
        assert caught.value.response["Error"]["Code"] == "ValidationException"

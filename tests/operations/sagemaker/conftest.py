"""Operations over real stores (memory and SQLite), called as the AWS face calls them, with botocore's own
checks before and after; and a stand-in for control that runs core's real decisions on willing instances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from botocore.validate import ParamValidator

from understudy.control.experiments import ExperimentLoop
from understudy.core.endpoints import Endpoint
from understudy.core.names import Place
from understudy.core.ports import Delete, InstanceStatus, Put, Records
from understudy.core.rollout_terms import (
    InstanceView,
    RemoveEndpoint,
    RolloutSnapshot,
    SaveEndpoint,
    Slot,
    StartInstance,
    StopInstance,
)
from understudy.core.rollouts import decide
from understudy.operations.sagemaker import (
    endpoint_configs,
    endpoint_updates,
    endpoints,
    experiment_updates,
    experiments,
    models,
    tags,
)
from understudy.operations.services import Operation, Services
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_series import MemorySeries
from understudy.stores.records import open_records

OPERATIONS: dict[tuple[str, str], Operation] = {
    **models.OPERATIONS,
    **endpoint_configs.OPERATIONS,
    **endpoints.OPERATIONS,
    **endpoint_updates.OPERATIONS,
    **experiments.OPERATIONS,
    **experiment_updates.OPERATIONS,
    **tags.OPERATIONS,
}
SERVICE = botocore.session.get_session().get_service_model("sagemaker")


class SteppingClock:
    """Each look at it is a second later, so that orders by time are certain."""

    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def now_s(self) -> float:
        self.at_s += 1.0
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class CountingEntropy:
    """Tokens that are never the same and always the same in each run."""

    def __init__(self) -> None:
        self.drawn = 0

    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        self.drawn += 1
        return f"{self.drawn:0{2 * length_bytes}x}"


def check_shape(value: Any, shape: Any, path: str = "") -> None:
    """Fail on members that botocore would not read, and on missing required ones."""
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members), f"{path}: {set(value) - set(shape.members)}"
        # Newer models require members (KmsKeyId) that AWS leaves out; only the top level is held to it.
        assert path or set(shape.required_members) <= set(value)
        for name, member in value.items():
            check_shape(member, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        assert isinstance(value, list), path
        assert value or path in (
            ".Tags",
            ".Models",
            ".EndpointConfigs",
            ".Endpoints",
            ".InferenceExperiments",
        ), f"{path} is empty"
        for number, one in enumerate(value):
            check_shape(one, shape.member, f"{path}[{number}]")
    elif shape.type_name == "map":
        assert isinstance(value, dict), path
    else:
        kinds = {
            "string": str,
            "integer": int,
            "boolean": bool,
            "float": (int, float),
            "timestamp": (int, float),
        }
        assert isinstance(value, cast(Any, kinds[shape.type_name])), f"{path}: {value!r}"


class Caller:
    """A client of the operations.

    Attributes:
        nudges: How often control was woken.
    """

    def __init__(self, records: Records) -> None:
        self.clock = SteppingClock()
        self.objects = MemoryObjects(self.clock)
        self.objects.create_bucket("models")
        self.objects.put("models", "churn.tar.gz", [b"x"])
        self.nudges = 0
        self.records = records
        self.place = Place()
        self.services = Services(
            records=records,
            buckets=self.objects,
            objects=self.objects,
            series=MemorySeries(),
            logs=cast(Any, None),
            stages=cast(Any, None),
            evidence=cast(Any, None),
            assignments=cast(Any, None),
            outcomes=cast(Any, None),
            clock=self.clock,
            entropy=CountingEntropy(),
            place=self.place,
            endpoint_url="http://127.0.0.1:8080",
            nudge=self._nudge,
        )

    def _nudge(self) -> None:
        self.nudges += 1

    def __call__(self, operation: str, **request: Any) -> dict[str, Any]:
        model = SERVICE.operation_model(operation)
        report = ParamValidator().validate(request, model.input_shape)
        assert not report.has_errors(), report.generate_report()
        answer = OPERATIONS["sagemaker", operation](self.services, request)
        if model.output_shape is None:
            assert answer == {}
        else:
            check_shape(answer, model.output_shape)
        return answer

    # --- short ways to the usual -----------------------------------------------------------------------

    def model(self, name: str = "churn", **request: Any) -> str:
        if not request:
            request = {
                "PrimaryContainer": {"Image": "xgboost:1.7", "ModelDataUrl": "s3://models/churn.tar.gz"}
            }
        return str(self("CreateModel", ModelName=name, **request)["ModelArn"])

    def config(self, name: str = "config", *variants: dict[str, Any], **request: Any) -> str:
        chosen = list(variants) or [self.variant()]
        answer = self("CreateEndpointConfig", EndpointConfigName=name, ProductionVariants=chosen, **request)
        return str(answer["EndpointConfigArn"])

    def variant(self, name: str = "AllTraffic", **members: Any) -> dict[str, Any]:
        return {
            "VariantName": name,
            "ModelName": "churn",
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
            **members,
        }

    def endpoint(self, name: str = "ep", config: str = "config", **request: Any) -> str:
        """Create an endpoint and let control bring it up."""
        arn = str(
            self("CreateEndpoint", EndpointName=name, EndpointConfigName=config, **request)["EndpointArn"]
        )
        self.settle(name)
        return arn

    def stored(self, name: str = "ep") -> Endpoint:
        stored = self.records.get(Endpoint, name)
        assert stored is not None
        return stored.value

    def settle(self, name: str = "ep", *, fail: str = "") -> None:
        """Carry out what is wished of an endpoint, as control does; ``fail``: why new instances fail."""
        instances: dict[Any, InstanceView] = {}
        for fleet_slot in self._serving(name):
            instances[fleet_slot.slot] = fleet_slot
        for _ in range(200):
            stored = self.records.get(Endpoint, name)
            if stored is None:
                return
            snapshot = RolloutSnapshot(
                stored.value, self.clock.now_s(), tuple(instances.values()), route_acknowledged=True
            )
            action = decide(snapshot)
            if action is None:
                if stored.value.update is None:
                    return
                self.clock.at_s += 60.0  # it bakes
                continue
            if isinstance(action, StartInstance):
                status = InstanceStatus.FAILED if fail else InstanceStatus.READY
                images = tuple((one.image, f"{one.image}@sha256:0", 5.0) for one in action.variant.containers)
                instances[action.slot] = InstanceView(
                    str(action.slot), action.slot, status, reason=fail, images=images
                )
            elif isinstance(action, StopInstance):
                del instances[action.slot]
            elif isinstance(action, SaveEndpoint):
                self.records.commit([Put(action.endpoint, stored.version)])
            elif isinstance(action, RemoveEndpoint):
                self.records.commit([Delete(Endpoint, name, stored.version)])
        raise AssertionError(f"{name} does not settle")

    def lead(self, endpoint: str = "ep", *, fail: str = "") -> None:
        """Carry out shadow tests and what they wish of an endpoint, as control does."""
        loop = ExperimentLoop(self.records, self.clock, self.place)
        for _ in range(20):
            self.settle(endpoint, fail=fail)
            if not loop.tick(reread=True):
                return
        raise AssertionError("the tests do not settle")

    def _serving(self, name: str) -> Iterator[InstanceView]:
        stored = self.records.get(Endpoint, name)
        fleet = None if stored is None else stored.value.fleet
        for variant in () if fleet is None else fleet.variants:
            for number in range(variant.current_count):
                assert fleet is not None
                slot = Slot(fleet.fleet_id, variant.name, number)
                yield InstanceView(str(slot), slot, InstanceStatus.READY, images=variant.images)


@pytest.fixture(params=["memory", "sqlite"])
def aws(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Caller]:
    """A caller of the operations over an empty store of each kind."""
    if request.param == "memory":
        yield Caller(MemoryRecords())
        return
    records = open_records(f"sqlite:///{tmp_path}/records.db")
    yield Caller(records)
    records.close()


@pytest.fixture
def caller() -> type[Caller]:
    """For tests that bring their own store."""
    return Caller

"""Shadow tests' decisions on their own: any history of wishes, failures and interference ends well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.experiment_steps import ExperimentSnapshot, decide
from understudy.core.experiments import (
    ENDED,
    HOLDING,
    LEGAL_STEPS,
    LONGEST_S,
    ExperimentStatus,
    InferenceExperiment,
    Size,
    StopWish,
    VariantAction,
    duration_problem,
    started_early,
)
from understudy.core.names import Place

PRODUCTION = FleetVariant("prod", "old", (), desired_count=2, current_count=2)
SHADOW = FleetVariant("shadow", "new", (), shadow=True)
S = ExperimentStatus


def endpoint(**members: Any) -> Endpoint:
    fleet = Fleet("f1", "before", (PRODUCTION,))
    made = Endpoint("e", "arn:e", "before", EndpointStatus.IN_SERVICE, 5.0, 5.0, fleet=fleet, next_fleet=2)
    return replace(made, **members)


def experiment(**members: Any) -> InferenceExperiment:
    mode = {
        "SourceModelVariantName": "prod",
        "ShadowModelVariants": [{"ShadowModelVariantName": "shadow", "SamplingPercentage": 40}],
    }
    request = {"EndpointName": "e", "ShadowModeConfig": mode, "ModelVariants": []}
    made = InferenceExperiment(
        "x",
        "arn:x",
        S.CREATING,
        request,
        "ab",
        Fleet("f0", "x-test-ab", (SHADOW,)),
        5.0,
        100.0,
        10_000.0,
        1.0,
        1.0,
    )
    return replace(made, **members)


class World:
    """A test and its endpoint, which control brings to what is wished, or fails to."""

    def __init__(self, **members: Any) -> None:
        self.test, self.now_s = experiment(**members), 50.0
        self.endpoint: Endpoint | None = endpoint()
        self.configs = {"before"}

    def step(self) -> bool:
        before = self.test
        step = decide(ExperimentSnapshot(before, self.now_s, Place(), self.endpoint))
        if step is None:
            return False
        after = step.experiment.status
        assert after is before.status or after in LEGAL_STEPS[before.status], (before.status, after)
        assert step == decide(ExperimentSnapshot(before, self.now_s, Place(), self.endpoint)), "repeatable"
        self.test = step.experiment
        if step.new_config is not None:
            assert step.new_config.name not in self.configs
            self.configs.add(step.new_config.name)
            assert step.endpoint is not None and step.endpoint.update is not None
            assert step.endpoint.update.fleet is not None
            assert step.endpoint.update.fleet.config_name == step.new_config.name
        if step.endpoint is not None:
            assert self.endpoint is not None and self.endpoint.status is EndpointStatus.IN_SERVICE
            self.endpoint = step.endpoint
        if step.dropped_config is not None:
            self.configs.remove(step.dropped_config)
        return True

    def control(self, *, fail: bool = False) -> None:
        """What the endpoint loop does with a wish."""
        wished = self.endpoint
        if wished is None or wished.update is None:
            return
        common: dict[str, Any] = {"update": None, "status": EndpointStatus.IN_SERVICE}
        fleet, config_name = wished.fleet, wished.config_name
        if wished.update.fleet is not None and not fail:
            fleet, config_name = wished.update.fleet, wished.update.fleet.config_name
        assert fleet is not None
        variants = tuple(
            replace(one, current_weight=one.desired_weight, current_count=one.desired_count)
            for one in fleet.variants
        )
        self.endpoint = replace(
            wished,
            fleet=replace(fleet, variants=variants),
            config_name=config_name,
            failure_reason="broken" if fail else None,
            **common,
        )

    def interfere(self) -> None:
        """Somebody updates the endpoint by hand."""
        if self.endpoint is None or self.endpoint.status is not EndpointStatus.IN_SERVICE:
            return
        other = Fleet(f"f{self.endpoint.next_fleet}", "by-hand", (PRODUCTION,))
        self.endpoint = replace(
            self.endpoint,
            status=EndpointStatus.UPDATING,
            update=PendingUpdate("update", self.now_s, other),
            next_fleet=self.endpoint.next_fleet + 1,
        )

    def stop(self, wish: StopWish) -> None:
        if self.test.status in HOLDING - {S.STOPPING} | {S.CREATED} and not (
            (wish.promotes or wish.keeps_all) and self.test.status not in (S.RUNNING, S.UPDATING)
        ):
            self.test = replace(self.test, status=S.STOPPING, stop=wish)

    def sample(self, percent: int) -> None:
        if self.test.status is S.RUNNING:
            mode = self.test.request["ShadowModeConfig"]
            (variant,) = mode["ShadowModelVariants"]
            changed = {**mode, "ShadowModelVariants": [{**variant, "SamplingPercentage": percent}]}
            request = {**self.test.request, "ShadowModeConfig": changed}
            self.test = replace(self.test, status=S.UPDATING, request=request)

    def check(self) -> None:
        """Whoever serves, production answers with a model that somebody chose for it."""
        if self.endpoint is None or self.endpoint.fleet is None:
            return
        production = [one for one in self.endpoint.fleet.variants if not one.shadow]
        assert len(production) == 1
        promoting = self.test.stop is not None and self.test.stop.promotes
        assert production[0].model_name == "old" or promoting
        assert sum(one.shadow for one in self.endpoint.fleet.variants) <= 1
        assert self.endpoint.config_name in (*self.configs, "by-hand")


RETAIN, REMOVE, PROMOTE = VariantAction.RETAIN, VariantAction.REMOVE, VariantAction.PROMOTE
WISHES = st.sampled_from(
    [
        StopWish(RETAIN, REMOVE, S.CANCELLED),
        StopWish(RETAIN, REMOVE, S.COMPLETED, sizes={"prod": Size("ml.m5.xlarge", 3)}),
        StopWish(REMOVE, PROMOTE, S.COMPLETED),
        StopWish(REMOVE, PROMOTE, S.COMPLETED, sizes={"shadow": Size("ml.m5.xlarge", 3)}),
        StopWish(RETAIN, RETAIN, S.COMPLETED),
    ]
)
HAPPENINGS = st.one_of(
    st.just(("step",)),
    st.tuples(st.just("control"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([10.0, 1_000.0, 20_000.0])),
    st.tuples(st.just("stop"), WISHES),
    st.tuples(st.just("sample"), st.integers(0, 100)),
    st.just(("interfere",)),
    st.just(("delete",)),
)


@given(st.lists(HAPPENINGS, max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_history_ends_and_production_is_always_served(happenings: list[tuple[Any, ...]]) -> None:
    world = World()
    for what, *arguments in happenings:
        if what == "step":
            world.step()
        elif what == "control":
            world.control(fail=arguments[0])
        elif what == "wait":
            world.now_s += arguments[0]
        elif what == "stop":
            world.stop(arguments[0])
        elif what == "sample":
            world.sample(arguments[0])
        elif what == "interfere":
            world.interfere()
        else:
            world.endpoint = None
        world.check()
    world.now_s += 1e9
    for _ in range(30):
        if not world.step():
            if world.test.status in ENDED:
                break
            world.control()
        world.check()
    assert world.test.status in ENDED
    assert world.test.completed_at_s is not None
    if world.endpoint is not None and world.test.test_fleet_id is not None:
        shadows = [one for one in world.endpoint.fleet.variants if one.shadow]  # type: ignore[union-attr]
        kept = world.test.stop is not None and world.test.stop.keeps_all
        failed = world.test.status_reason is not None and "still serves" in world.test.status_reason
        assert not shadows or kept or failed


def test_what_was_before_comes_back_to_the_letter() -> None:
    world = World()
    assert world.endpoint is not None
    before = world.endpoint.fleet
    world.now_s = 150.0
    while world.test.status is not S.RUNNING:
        if not world.step():
            world.control()
    assert world.endpoint.fleet is not None and before is not None
    assert [one.current_weight for one in world.endpoint.fleet.variants] == [1.0, 0.4]
    world.now_s = 10_000.0
    while world.test.status is not S.COMPLETED:
        if not world.step():
            world.control()
    after = world.endpoint.fleet
    assert after is not None and after.fleet_id == "f3"
    assert replace(after, fleet_id=before.fleet_id) == before
    assert world.test.ends_at_s == 10_000.0


def test_a_test_waits_for_a_rival_until_its_own_end() -> None:
    world = World(status=S.STARTING)
    snapshot = ExperimentSnapshot(world.test, 200.0, Place(), world.endpoint, rival="other")
    assert decide(snapshot) is None
    step = decide(replace(snapshot, now_s=10_000.0))
    assert step is not None and step.experiment.status is S.CANCELLED and step.endpoint is None
    assert "used by other" in str(step.experiment.status_reason)


@pytest.mark.parametrize(
    "status", [EndpointStatus.FAILED, EndpointStatus.OUT_OF_SERVICE, EndpointStatus.UPDATE_ROLLBACK_FAILED]
)
@pytest.mark.parametrize("state", [one for one in S if one not in ENDED])
def test_an_endpoint_out_of_service_ends_every_test(status: EndpointStatus, state: ExperimentStatus) -> None:
    broken = endpoint(status=status, failure_reason="no disk")
    test = experiment(status=state, stop=StopWish())
    step = decide(ExperimentSnapshot(test, 200.0, Place(), broken))
    assert step is not None and step.experiment.status is S.CANCELLED
    assert "no disk" in str(step.experiment.status_reason)


def test_schedules_and_early_starts() -> None:
    assert duration_problem(0.0, LONGEST_S) is None
    assert "30 days" in str(duration_problem(0.0, LONGEST_S + 1.0))
    early = started_early(experiment(starts_at_s=90_000.0, ends_at_s=90_000.0 + LONGEST_S), 10.0)
    assert (early.status, early.starts_at_s, early.ends_at_s) == (S.STARTING, 10.0, 10.0 + LONGEST_S)

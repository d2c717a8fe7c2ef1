"""The loop of managed shadow tests: saves what :func:`core.experiment_steps.decide` says.

Each step is one commit of the test, its endpoint's wish and configurations, so there is nothing to repair
after a crash; the endpoint loop carries the wish out.  Main method: :meth:`ExperimentLoop.tick`, called
before the endpoint loop's in the same thread.
"""

from __future__ import annotations

import logging

from understudy.core.endpoints import Endpoint, EndpointConfig
from understudy.core.errors import Conflict
from understudy.core.experiment_steps import ExperimentSnapshot, Step, decide
from understudy.core.experiments import ENDED, HOLDING, ExperimentStatus, InferenceExperiment
from understudy.core.models import Tags
from understudy.core.names import Place
from understudy.core.ports import Clock, Delete, Event, Put, Query, Records, Stored

log = logging.getLogger(__name__)

MAX_STEPS_PER_ROUND = 20  # a life has fewer

_UNDER_WAY = tuple(status for status in ExperimentStatus if status not in ENDED)


class ExperimentLoop:
    """Leads every test from Creating to its end."""

    def __init__(self, records: Records, clock: Clock, place: Place) -> None:
        self._records = records
        self._clock = clock
        self._place = place
        self._under_way: list[Stored[InferenceExperiment]] | None = None

    def tick(self, *, reread: bool) -> bool:
        """Do one round.

        Args:
            reread: The store may have changed since the last round.

        Returns:
            Whether anything was saved: the endpoint loop must read the store again.
        """
        if self._under_way is None or reread:
            self._under_way = self._read()
        acted = False
        for stored in self._under_way:
            acted = self._settle(stored) or acted
        if acted:
            self._under_way = None
        return acted

    def _read(self) -> list[Stored[InferenceExperiment]]:
        found: list[Stored[InferenceExperiment]] = []
        for status in _UNDER_WAY:
            found += self._records.find(InferenceExperiment, Query(status=status))
        # One that changed its status meanwhile may have been found twice; the newest is right.
        newest = {stored.value.name: stored for stored in sorted(found, key=lambda one: one.version)}
        return list(newest.values())

    def _settle(self, stored: Stored[InferenceExperiment]) -> bool:
        acted = False
        for _ in range(MAX_STEPS_PER_ROUND):
            after = self._step(stored)
            if after is None:
                break
            acted, stored = True, after
        return acted

    def _step(self, stored: Stored[InferenceExperiment]) -> Stored[InferenceExperiment] | None:
        """Take one step; None when there is none now, or others changed what it rests on."""
        experiment = stored.value
        endpoint = self._records.get(Endpoint, experiment.endpoint_name)
        config = None
        if endpoint is not None:
            config = self._records.get(EndpointConfig, endpoint.value.config_name)
        step = decide(
            ExperimentSnapshot(
                experiment=experiment,
                now_s=self._clock.now_s(),
                place=self._place,
                endpoint=None if endpoint is None else endpoint.value,
                config=None if config is None else config.value,
                rival=self._rival(experiment),
            )
        )
        if step is None:
            return None
        try:
            self._records.commit(self._changes(stored, step, endpoint))
        except Conflict:
            self._under_way = None  # read again at the next round
            return None
        log.info("experiment %s: %s %s", experiment.name, step.event, step.detail)
        return Stored(step.experiment, stored.version + 1)

    def _rival(self, experiment: InferenceExperiment) -> str | None:
        """Name another test that holds the endpoint, before one begins; it can't lose it afterwards."""
        if experiment.status is not ExperimentStatus.STARTING or experiment.test_fleet_id is not None:
            return None
        for status in sorted(HOLDING):
            for other in self._records.find(InferenceExperiment, Query(status=status)):
                if (
                    other.value.endpoint_name == experiment.endpoint_name
                    and other.value.name != experiment.name
                    and other.value.test_fleet_id is not None
                ):
                    return other.value.name
        return None

    def _changes(
        self, stored: Stored[InferenceExperiment], step: Step, endpoint: Stored[Endpoint] | None
    ) -> list[Put | Delete | Event]:
        now_s = self._clock.now_s()
        changes: list[Put | Delete | Event] = [
            Put(step.experiment, stored.version),
            Event(stored.value.arn, step.event, now_s, step.detail),
        ]
        if step.new_config is not None:
            changes += [
                Put(step.new_config, 0),
                Event(step.new_config.arn, "EndpointConfigCreated", now_s, {"experiment": stored.value.name}),
            ]
        if step.endpoint is not None:
            assert endpoint is not None  # a wish is made for an endpoint that was seen
            detail = {**step.detail, "experiment": stored.value.name}
            changes += [
                Put(step.endpoint, endpoint.version),
                Event(step.endpoint.arn, "UpdateRequested", now_s, detail),
            ]
        if step.dropped_config is not None:
            changes += self._drop(step.dropped_config, now_s)
        return changes

    def _drop(self, config_name: str, now_s: float) -> list[Put | Delete | Event]:
        config = self._records.get(EndpointConfig, config_name)
        if config is None:
            return []
        changes: list[Put | Delete | Event] = [
            Delete(EndpointConfig, config_name, config.version),
            Event(config.value.arn, "EndpointConfigDeleted", now_s),
        ]
        tags = self._records.get(Tags, config.value.arn)
        if tags is not None:
            changes.append(Delete(Tags, config.value.arn, tags.version))
        return changes

"""Which stage each published route belongs to.

Owns the step between "this route is wanted" and "routers have it": a route whose shares differ from what they
were gets a new stage, which is on disk before the first router is told.  Refuses to give a stage to what
changes nobody's chance.  Main class: :class:`StageBook`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from understudy.core.ports import Clock, Stages
from understudy.core.routing import EndpointRoute
from understudy.core.stages import Stage, arms_of


class StageBook:
    """Stamps routes with stages; used by the publisher alone, under its lock."""

    def __init__(self, stages: Stages, clock: Clock) -> None:
        self._stages = stages
        self._clock = clock
        self._open: dict[str, Stage] | None = None

    def stamp(self, routes: Mapping[str, EndpointRoute]) -> dict[str, EndpointRoute]:
        """Return the routes with their stages; end the stages of endpoints that have no route any more.

        Args:
            routes: All that are to be published, by endpoint; a stage in them is not looked at.
        """
        if self._open is None:
            self._open = {stage.endpoint: stage for stage in self._stages.open()}
        for name in [name for name in self._open if name not in routes]:
            self._stages.end(name, self._clock.now_s())
            del self._open[name]
        return {name: self._stamped(self._open, route) for name, route in routes.items()}

    def _stamped(self, stages: dict[str, Stage], route: EndpointRoute) -> EndpointRoute:
        arms = arms_of(route)
        stage = stages.get(route.name)
        if stage is None or stage.arms != arms or stage.sticky != route.sticky:
            stage = self._stages.begin(route.name, arms, route.sticky, self._clock.now_s())
            stages[route.name] = stage
        return replace(route, stage=stage.number)

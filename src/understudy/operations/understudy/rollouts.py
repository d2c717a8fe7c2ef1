"""Watching and stopping a rollout, and the audit trail of an endpoint.

Owns the wish to go back in an endpoint's record; control carries it out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from understudy.core.alarms import Alarm
from understudy.core.deployments import plan_of
from understudy.core.endpoints import Endpoint
from understudy.core.errors import ValidationException
from understudy.core.ports import Event, Put
from understudy.core.rollout_progress import progress_of
from understudy.core.rollout_terms import FORWARD, AlarmView
from understudy.operations.sagemaker.endpoints import get_endpoint
from understudy.operations.sagemaker.wording import ENDPOINT, could_not_find, until_agreed
from understudy.operations.services import Services
from understudy.operations.sts import caller_arn
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of, number_of

MOST_EVENTS = 1000
LONGEST_REASON = 500


def read_rollout(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Tell what an endpoint serves and how far a change of it is."""
    endpoint = endpoint_of(services, request)
    return progress_of(endpoint, _alarms(services, endpoint), services.clock.now_s())


def _alarms(services: Services, endpoint: Endpoint) -> list[AlarmView]:
    if endpoint.update is None:
        return []
    views = []
    for name in plan_of(endpoint.update.deployment_config).alarms:
        stored = services.records.get(Alarm, name)
        views.append(
            AlarmView(name, None)
            if stored is None
            else AlarmView(name, stored.value.state, stored.value.reason)
        )
    return views


def read_events(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Read the audit trail of an endpoint, oldest first; that of a deleted one too.

    Query parameters: ``after``, the ``sequence`` of the last event seen; ``limit``.

    Raises:
        ValidationException: there was never such an endpoint.
    """
    name = request.labels["endpoint"]
    arn = services.place.arn("endpoint", name)
    after = int(number_of(request, "after", 0.0) or 0.0)
    limit = int(number_of(request, "limit", float(MOST_EVENTS)) or 0.0)
    if after < 0 or not 1 <= limit <= MOST_EVENTS:
        raise ValidationException(f"Query parameter after must be at least 0, limit from 1 to {MOST_EVENTS}.")
    events = services.records.events(arn, after, limit)
    if not events and not services.records.events(arn, 0, 1):
        raise could_not_find(ENDPOINT, arn)
    return {"endpoint": name, "events": [_told(event) for event in events]}


def _told(event: Event) -> dict[str, Any]:
    """One line: when, what, who, from and to which configuration, why, and all other facts."""
    detail = dict(event.detail)
    return {
        "sequence": event.sequence,
        "at_s": event.at_s,
        "kind": event.kind,
        "by": detail.pop("by", "understudy"),
        "from": detail.pop("from", None),
        "to": detail.pop("to", None),
        "reason": detail.pop("reason", None),
        "detail": detail,
    }


def roll_back(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Ask that the update under way is given up; member ``reason`` is kept in the audit trail.

    Raises:
        ValidationException: no update is under way that could still be given up.
    """
    reason = request.body.get("reason", "")
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
        raise ValidationException(f"Member reason must be a string of at most {LONGEST_REASON} characters.")
    name = request.labels["endpoint"]
    arn = services.place.arn("endpoint", name)

    def attempt() -> dict[str, Any]:
        stored = get_endpoint(services.records, name, arn)
        endpoint, update = stored.value, stored.value.update
        if update is None or update.kind != "update" or update.fleet is None or update.phase not in FORWARD:
            raise ValidationException(
                f'Endpoint "{arn}" has no update under way that could be rolled back; its status is '
                f"{endpoint.status}."
            )
        now_s = services.clock.now_s()
        why = "A rollback was asked for" + (f": {reason}" if reason else ".")
        asked = replace(endpoint, update=replace(update, stop_reason=update.stop_reason or why))
        detail = {
            "from": update.fleet.config_name,
            "to": endpoint.config_name,
            "reason": why,
            "by": caller_arn(services.place),
        }
        services.records.commit([Put(asked, stored.version), Event(arn, "RollbackRequested", now_s, detail)])
        return {"endpoint": name, "from": update.fleet.config_name, "to": endpoint.config_name}

    answer = until_agreed(attempt)
    services.nudge()
    return answer


OWN_CALLS = (
    OwnCall("GET", "/endpoints/{endpoint}/rollout", read_rollout),
    OwnCall("POST", "/endpoints/{endpoint}/rollback", roll_back, body=frozenset({"reason"})),
    OwnCall("GET", "/endpoints/{endpoint}/events", read_events, query=frozenset({"after", "limit"})),
)

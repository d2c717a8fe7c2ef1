"""Tags of resources: AddTags, ListTags, DeleteTags, and Tags in Create*.

Owns one Tags record per tagged resource, made with the resource and deleted with it.
Refuses more than 50 tags, repeated keys, AWS's own ``aws:`` keys, changes of ``understudy:`` keys but for an
endpoint's (``extensions``) and resources that are not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from understudy.core.autopilot import AUTOPILOT, Autopilot
from understudy.core.endpoints import Endpoint, EndpointConfig
from understudy.core.errors import ResourceNotFound, ValidationException
from understudy.core.experiments import InferenceExperiment
from understudy.core.models import Model, Tags
from understudy.core.names import Place
from understudy.core.ports import Delete, Event, Put, Records
from understudy.operations.sagemaker.extensions import PREFIX, extensions_of, refuse_changed_extensions
from understudy.operations.sagemaker.wording import CONFIG, ENDPOINT, EXPERIMENT, MODEL, until_agreed
from understudy.operations.services import Operation, Services

MOST_TAGS = 50  # botocore: TagList max

Changes = list[Put | Delete | Event]

# The only kinds of resources there are so far, by the type in their ARN.
_KINDS: dict[
    str, tuple[type[Model] | type[EndpointConfig] | type[Endpoint] | type[InferenceExperiment], str]
] = {
    "model": (Model, MODEL),
    "endpoint-config": (EndpointConfig, CONFIG),
    "endpoint": (Endpoint, ENDPOINT),
    "inference-experiment": (InferenceExperiment, EXPERIMENT),
}


def parse_tags(tags: Sequence[dict[str, str]]) -> dict[str, str]:
    """Read a Tags list.

    Raises:
        ValidationException: a key comes twice or begins with ``aws:``.
    """
    parsed: dict[str, str] = {}
    for tag in tags:
        key = tag["Key"]
        if key.lower().startswith("aws:"):
            raise ValidationException(f'Tag key "{key}" is reserved: keys must not begin with "aws:".')
        if key in parsed:
            raise ValidationException(f'Duplicate tag key found: "{key}".')
        parsed[key] = tag["Value"]
    return parsed


def changes_for_new(records: Records, arn: str, request: dict[str, Any], now_s: float) -> Changes:
    """Say what to commit along with a new resource so that it has exactly the tags of its request.

    Raises:
        ValidationException: tags that no resource, or not this kind of it, can have.
    """
    tags = parse_tags(request.get("Tags", []))
    resource_type = arn.split(":", 5)[5].partition("/")[0]
    extensions_of(_KINDS[resource_type][1] if resource_type in _KINDS else resource_type, tags)
    left = records.get(Tags, arn)  # an AddTags that ran while the resource before was deleted
    if tags:
        return [Put(Tags(arn, tags, now_s, now_s), 0 if left is None else left.version)]
    return changes_for_deleted(records, arn)


def changes_for_deleted(records: Records, arn: str) -> Changes:
    """Say what to commit along with a resource's end."""
    left = records.get(Tags, arn)
    return [] if left is None else [Delete(Tags, arn, left.version)]


def _check_exists(records: Records, place: Place, arn: str) -> None:
    resource_type, _, name = arn.split(":", 5)[5].partition("/")
    kind, what = _KINDS.get(resource_type, (None, "resource"))
    if kind is None or arn != place.arn(resource_type, name) or records.get(kind, name) is None:
        raise ResourceNotFound(f'Could not find {what} "{arn}".')


def _render(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": tags[key]} for key in sorted(tags)]


def _change(services: Services, arn: str, changed: dict[str, str], removed: Sequence[str]) -> dict[str, str]:
    def attempt() -> dict[str, str]:
        _check_exists(services.records, services.place, arn)
        now_s = services.clock.now_s()
        stored = services.records.get(Tags, arn)
        before = {} if stored is None else stored.value.tags
        after = {key: value for key, value in {**before, **changed}.items() if key not in removed}
        rest = _changes_of_endpoint(services, arn, after)
        begins = _autopilot_begins(services, arn, (*changed, *removed))
        if rest is None:
            refuse_changed_extensions((*changed, *removed), before, after)
        if len(after) > MOST_TAGS:
            raise ValidationException(
                f'"{arn}" would have {len(after)} tags; a resource can have {MOST_TAGS} at most.'
            )
        if after == before:
            if begins:
                services.records.commit(begins)
            return after
        version = 0 if stored is None else stored.version
        created_at_s = now_s if stored is None else stored.value.created_at_s
        write: Put | Delete = Delete(Tags, arn, version)
        if after:
            write = Put(Tags(arn, after, created_at_s, now_s), version)
        event = Event(arn, "TagsChanged", now_s, {"from": before, "to": after})
        services.records.commit([write, *(rest or []), *begins, event])
        return after

    answer = until_agreed(attempt)
    services.nudge()
    return answer


def _changes_of_endpoint(services: Services, arn: str, tags: dict[str, str]) -> Changes | None:
    """Say what to commit so that an endpoint follows its tags; None for another kind of resource.

    Raises:
        ValidationException: an ``understudy:`` tag that endpoints don't have.
    """
    resource_type, _, name = arn.split(":", 5)[5].partition("/")
    if resource_type != "endpoint":
        return None
    stored = services.records.get(Endpoint, name)
    extensions = extensions_of(ENDPOINT, tags)
    if stored is None or stored.value.extensions == extensions:
        return []
    return [Put(replace(stored.value, extensions=extensions), stored.version)]


def _autopilot_begins(services: Services, arn: str, keys: Sequence[str]) -> Changes:
    """Say what to commit so that an autopilot whose tag is set, again or anew, begins with what it finds."""
    if f"{PREFIX}{AUTOPILOT}" not in keys:
        return []
    stored = services.records.get(Autopilot, arn.split(":", 5)[5].partition("/")[2])
    return [] if stored is None else [Delete(Autopilot, stored.value.name, stored.version)]


def add_tags(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Add tags or give existing keys new values; answer all tags of the resource."""
    return {"Tags": _render(_change(services, request["ResourceArn"], parse_tags(request["Tags"]), ()))}


def list_tags(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List a resource's tags by key; there are never more than fit one page."""
    arn = request["ResourceArn"]
    if "NextToken" in request:
        raise ValidationException("Invalid NextToken: a resource's tags fit one page, there is no next one.")
    _check_exists(services.records, services.place, arn)
    stored = services.records.get(Tags, arn)
    return {"Tags": [] if stored is None else _render(stored.value.tags)}


def delete_tags(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove tags by key; keys that are not there are no error."""
    _change(services, request["ResourceArn"], {}, request["TagKeys"])
    return {}


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sagemaker", "AddTags"): add_tags,
    ("sagemaker", "ListTags"): list_tags,
    ("sagemaker", "DeleteTags"): delete_tags,
}

"""Tags of alarms: ListTagsForResource, TagResource, UntagResource of CloudWatch.

Owns the same Tags records as SageMaker's tags, by the alarm's ARN.  Refuses resources that are no alarm here,
repeated keys, AWS's own ``aws:`` keys and more than 50 tags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.core.alarms import Alarm, alarm_arn, alarm_name_of
from understudy.core.errors import ApiError
from understudy.core.models import Tags
from understudy.core.ports import Delete, Put
from understudy.operations.metric_requests import invalid_value
from understudy.operations.sagemaker.wording import until_agreed
from understudy.operations.services import Operation, Services

MOST_TAGS = 50


def parse_alarm_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Read a list of tags.

    Raises:
        ApiError: InvalidParameterValue, 400: a key comes twice, begins with ``aws:``, or there are too many.
    """
    parsed: dict[str, str] = {}
    for tag in tags:
        key = tag["Key"]
        if key.lower().startswith("aws:"):
            raise invalid_value(f'The tag key "{key}" is reserved: keys must not begin with "aws:".')
        if key in parsed:
            raise invalid_value(f'The tag key "{key}" is given more than once.')
        parsed[key] = tag["Value"]
    _check_number(parsed)
    return parsed


def _check_number(tags: Mapping[str, str]) -> None:
    if len(tags) > MOST_TAGS:
        raise invalid_value(f"A resource can have {MOST_TAGS} tags at most.")


def _check_exists(services: Services, arn: str) -> None:
    name = alarm_name_of(arn)
    if arn != alarm_arn(services.place, name) or services.records.get(Alarm, name) is None:
        raise ApiError(f"Unknown resource: {arn}", code="ResourceNotFoundException", status=404)


def _change(services: Services, arn: str, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    def attempt() -> None:
        _check_exists(services, arn)
        now_s = services.clock.now_s()
        stored = services.records.get(Tags, arn)
        before = {} if stored is None else stored.value.tags
        after = change(dict(before))
        _check_number(after)
        if after == before:
            return
        version = 0 if stored is None else stored.version
        made_at_s = now_s if stored is None else stored.value.created_at_s
        put = Put(Tags(arn, after, made_at_s, now_s), version)
        services.records.commit([put if after else Delete(Tags, arn, version)])

    until_agreed(attempt)


def list_tags_for_resource(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """List an alarm's tags by key."""
    arn = request["ResourceARN"]
    _check_exists(services, arn)
    stored = services.records.get(Tags, arn)
    tags = {} if stored is None else stored.value.tags
    return {"Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]}


def tag_resource(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Add tags to an alarm, or give existing keys new values."""
    changed = parse_alarm_tags(request["Tags"])
    _change(services, request["ResourceARN"], lambda tags: {**tags, **changed})
    return {}


def untag_resource(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove tags of an alarm by key; keys that are not there are no error."""
    gone = set(request["TagKeys"])
    _change(
        services,
        request["ResourceARN"],
        lambda tags: {key: value for key, value in tags.items() if key not in gone},
    )
    return {}


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("cloudwatch", "ListTagsForResource"): list_tags_for_resource,
    ("cloudwatch", "TagResource"): tag_resource,
    ("cloudwatch", "UntagResource"): untag_resource,
}

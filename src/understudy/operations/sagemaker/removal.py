"""Forgetting a model or a configuration: the record, its tags, and a line of the audit trail, at once."""

from __future__ import annotations

from typing import Any

from understudy.core.ports import Delete, Event, Keyed
from understudy.operations.sagemaker.tags import changes_for_deleted
from understudy.operations.sagemaker.wording import could_not_find, until_agreed
from understudy.operations.services import Services


def remove(
    services: Services, kind: type[Keyed], noun: str, *, name: str, arn: str, event: str
) -> dict[str, Any]:
    """Drop a record that nothing else depends on.

    Args:
        noun: What the refusal calls it, e.g. ``wording.MODEL``.
        event: Kind of the audit trail's line.

    Raises:
        ValidationException: there is no such record.
    """
    records = services.records

    def attempt() -> dict[str, Any]:
        stored = records.get(kind, name)
        if stored is None:
            raise could_not_find(noun, arn)
        records.commit(
            [
                Delete(kind, name, stored.version),
                *changes_for_deleted(records, arn),
                Event(arn, event, services.clock.now_s()),
            ]
        )
        return {}

    return until_agreed(attempt)

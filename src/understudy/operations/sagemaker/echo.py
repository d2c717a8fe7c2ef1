"""What a Describe echoes of the request that made a resource: its members, less tags and empty structures.

SageMaker's SDK v3 refuses an answer with an empty structure in it, and AWS sends none.
Main function: :func:`kept_members`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kept_members(request: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is kept of a Create request.

    >>> kept_members({"ModelName": "m", "Tags": [1], "PrimaryContainer": {"Image": "", "Environment": {}}})
    {'ModelName': 'm', 'PrimaryContainer': {'Image': ''}}
    """
    kept: dict[str, Any] = _without_empty({name: item for name, item in request.items() if name != "Tags"})
    return kept


def _without_empty(value: Any) -> Any:
    """Drop members that are empty, or become so, at any depth; the items of lists keep their places."""
    if isinstance(value, Mapping):
        members = {name: _without_empty(item) for name, item in value.items()}
        return {name: item for name, item in members.items() if item not in ({}, [])}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value

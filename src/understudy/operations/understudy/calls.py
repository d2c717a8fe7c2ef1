"""What an own call is: a method, a path below ``/understudy/v1`` and a function like any operation.

Owns :class:`OwnCall` and :class:`OwnRequest`, and the checks that every call shares: of query parameters
and of the body's members.  Refuses what a call does not know, by name, with ValidationException.

A call's function raises the same errors as an operation (``core.errors``); the face is ``aws.own_calls``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.core.endpoints import Endpoint
from understudy.core.errors import ValidationException
from understudy.operations.sagemaker.endpoints import get_endpoint
from understudy.operations.services import Services

ROOT = "/understudy/v1"


@dataclass(frozen=True)
class OwnRequest:
    """One call that was asked for.

    Attributes:
        labels: Decoded parts of the path by the names in braces.
        query: Decoded query parameters; each at most once.
        body: The JSON object that was sent; empty where none was.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


Answerer = Callable[[Services, OwnRequest], Mapping[str, Any]]


@dataclass(frozen=True)
class OwnCall:
    """One call.

    Attributes:
        path: Below ``ROOT``; ``{name}`` stands for one part, e.g. ``/endpoints/{endpoint}/outcomes``.
        query: Names of the query parameters it takes; others are refused.
        body: Names of the body's members it takes; None: it takes any (and checks them itself).
    """

    method: str
    path: str
    answer: Answerer
    query: frozenset[str] = frozenset()
    body: frozenset[str] | None = frozenset()

    def match(self, parts: tuple[str, ...]) -> dict[str, str] | None:
        """Return the labels of a path's decoded parts; None when it is not this call's."""
        wanted = tuple(self.path.strip("/").split("/"))
        if len(wanted) != len(parts):
            return None
        labels: dict[str, str] = {}
        for want, part in zip(wanted, parts, strict=True):
            if want.startswith("{"):
                labels[want[1:-1]] = part
            elif want != part:
                return None
        return labels

    def check(self, request: OwnRequest) -> None:
        """Refuse parameters that the call does not have.

        Raises:
            ValidationException: it names one and says which there are.
        """
        _refuse_others("query parameter", request.query, self.query)
        if self.body is not None:
            _refuse_others("member", request.body, self.body)


def _refuse_others(what: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            there_are = ", ".join(sorted(known)) or "none"
            raise ValidationException(f"Unknown {what} {name[:100]!r}; there are: {there_are}.")


def endpoint_of(services: Services, request: OwnRequest) -> Endpoint:
    """Read the endpoint that the path names.

    Raises:
        ValidationException: it is not there, in AWS's words.
    """
    name = request.labels["endpoint"]
    return get_endpoint(services.records, name, services.place.arn("endpoint", name)).value


def number_of(request: OwnRequest, name: str, default: float | None = None) -> float | None:
    """Read a query parameter that is a finite number.

    Raises:
        ValidationException: it is none.
    """
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValidationException(f"Query parameter {name} must be a number, not {text[:100]!r}.")
    return value

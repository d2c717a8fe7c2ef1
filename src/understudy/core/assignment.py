"""Who answers which user: sticky assignment, and the record of an assignment.

Owns what a *unit* is (a session, or a user named in the custom attributes), the mapping from units to
variants and :class:`Assignment`.  Refuses chance and memory: the same unit has the same variant in every
router, after every restart.  Main function: :func:`choose_for_unit`.

The mapping is weighted rendezvous hashing: each candidate draws an exponential waiting time of rate *weight*
from the hash of (endpoint, candidate, unit), and the shortest one wins.  A candidate has exactly its share of
the units, and a change of one weight moves units to or from that candidate only.

Source: Schindelhauer, Schomaker, "Weighted distributed hash tables", SPAA 2005 (logarithmic method);
RFC 7693 (BLAKE2b, here with 64 bits).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import log
from typing import NamedTuple

SESSION = "session-id"
ATTRIBUTE = "custom-attributes."
NEW_SESSION = "NEW_SESSION"  # asks for a session; there is none yet
LONGEST_ATTRIBUTE_NAME = 64

# Which requests an endpoint's log has.
LOG_ALL, LOG_IDENTIFIED, LOG_OFF = "all", "identified", "off"

_ATTRIBUTE_NAME = re.compile(rf"[A-Za-z0-9_.\-]{{1,{LONGEST_ATTRIBUTE_NAME}}}", re.ASCII)
_SEPARATORS = re.compile(r"[,;]")


class Assignment(NamedTuple):
    """One production request: who it was given to, why, and how it ended.

    Attributes:
        at_s: Unix time at which it was routed, by the server's clock.
        source: A ``core.stages.Source``.
        status: As the caller was told; 499 when it went away before.
        model_latency_us: None when no model was waited for.
        event_id: Of the captured record; None where none was made.
        inference_id: As the caller gave it.
        unit: What its variant was chosen by, where the source is ``unit``.
    """

    endpoint: str
    at_s: float
    variant: str
    config_name: str
    fleet_id: str
    stage: int
    source: str
    status: int
    model_latency_us: int | None = None
    event_id: str | None = None
    inference_id: str | None = None
    unit: str | None = None


class KeptAssignment(NamedTuple):
    """An assignment in the order in which it was kept.

    Attributes:
        sequence: Rises over all endpoints; never given out twice.
    """

    sequence: int
    assignment: Assignment


class Receipt(NamedTuple):
    """What says that a batch was kept: given out again, unchanged, for the same batch."""

    source: str
    number: int


def logged_requests(extensions: Mapping[str, str]) -> str:
    """Say which requests of an endpoint are logged, by its ``understudy:`` tags.

    >>> logged_requests({}), logged_requests({"sticky": "session-id"})
    ('identified', 'all')
    """
    return extensions.get("assignments") or (LOG_ALL if extensions.get("sticky") else LOG_IDENTIFIED)


# --- units -----------------------------------------------------------------------------------------


def is_sticky_value(value: str) -> bool:
    """Tell whether the tag ``understudy:sticky`` can have a value.

    >>> [is_sticky_value(one) for one in ("session-id", "custom-attributes.user", "custom-attributes.", "ip")]
    [True, True, False, False]
    """
    if value == SESSION:
        return True
    name = value.removeprefix(ATTRIBUTE)
    return name != value and _ATTRIBUTE_NAME.fullmatch(name) is not None


def unit_of(sticky: str, session_id: str | None, custom_attributes: str | None) -> str | None:
    """Find the unit of a request; None when it names none.

    Args:
        sticky: ``session-id`` or ``custom-attributes.NAME``.
        session_id: As the caller gave it; one that is only asked for is none yet.

    >>> unit_of("custom-attributes.user", None, "trace=9; user=ann")
    'ann'
    """
    if sticky == SESSION:
        return None if session_id == NEW_SESSION else session_id or None
    if not custom_attributes:
        return None
    return attribute_of(custom_attributes, sticky.removeprefix(ATTRIBUTE))


def attribute_of(custom_attributes: str, name: str) -> str | None:
    """Read one of the custom attributes, which are opaque to SageMaker; the first of several wins.

    Args:
        custom_attributes: ``name=value`` pairs with commas or semicolons between them, or a JSON object.

    Returns:
        None where it is absent or empty, or neither text nor number.

    >>> attribute_of('{"user": 7}', "user"), attribute_of("user=, id=3", "user"), attribute_of("ann", "user")
    ('7', None, None)
    """
    text = custom_attributes.strip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError:
            return None
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return None
        return str(value).strip() or None
    for pair in _SEPARATORS.split(text):
        key, equals, value = pair.partition("=")
        if equals and key.strip() == name:
            return value.strip() or None
    return None


# --- the mapping -----------------------------------------------------------------------------------


def hash_prefix(endpoint: str, *candidate: str) -> bytes:
    """Return what stands before a unit in the text that is hashed for a candidate.

    Args:
        candidate: A variant's name; then, to choose among its fleets, the fleet's id.
    """
    return "\0".join((endpoint, *candidate, "")).encode("utf-8", "surrogatepass")


def waiting_time(prefix: bytes, unit: bytes, weight: float) -> float:
    """Draw a candidate's waiting time for a unit: exponential, of rate ``weight``.

    Args:
        prefix: Of :func:`hash_prefix`.
        weight: Positive.
    """
    bits = int.from_bytes(blake2b(prefix + unit, digest_size=8).digest(), "big") >> 12
    return -log((bits + 0.5) * 2.0**-52) / weight


def choose_for_unit(
    endpoint: str, unit: str, weights: Iterable[tuple[str, str, float]]
) -> tuple[str, str] | None:
    """Name the variant, and of what fleet, that answers a unit.

    First by the variant's name, so that an update keeps units with their variant; then, while two fleets have
    variants of that name, by the fleet.

    Args:
        endpoint: Its name: units are spread anew at every endpoint.
        weights: (variant, fleet id, weight) of everybody who may answer.

    Returns:
        None when no weight is positive.

    >>> choose_for_unit("e", "ann", [("A", "f1", 1.0), ("B", "f1", 1.0)])
    ('B', 'f1')
    """
    names: dict[str, dict[str, float]] = {}
    for variant, fleet_id, weight in weights:
        if weight > 0.0:
            fleets = names.setdefault(variant, {})
            fleets[fleet_id] = fleets.get(fleet_id, 0.0) + weight
    if not names:
        return None
    key = unit.encode("utf-8", "surrogatepass")
    name = min(names, key=lambda one: waiting_time(hash_prefix(endpoint, one), key, sum(names[one].values())))
    fleets = names[name]
    return name, min(fleets, key=lambda one: waiting_time(hash_prefix(endpoint, name, one), key, fleets[one]))

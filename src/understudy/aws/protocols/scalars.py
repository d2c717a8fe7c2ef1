"""Scalars written as text (headers, query strings, forms, XML) and the errors of unreadable requests.

Main functions: :func:`parse_text`, :func:`render_text`.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from botocore.model import Shape

from understudy.aws.protocols.timestamps import parse_timestamp, render_timestamp
from understudy.core.errors import ApiError

INTEGER_RANGES = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


class Malformed(ApiError):
    """A request that cannot be read as its protocol demands; the gateway gives it the service's code."""

    code = "SerializationException"
    status = 400


def malformed(path: str, expected: str) -> Malformed:
    """Name the place and what belongs there; never echoes the value."""
    return Malformed(f"Cannot read the value at '{path or 'the request'}': expected {expected}.")


def parse_base64(text: str, path: str) -> bytes:
    """Decode a blob."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed(path, "base64") from None


def parse_text(shape: Shape, text: str, path: str) -> Any:
    """Read a scalar from text.

    Raises:
        Malformed: it is not of the shape's type.
    """
    kind = shape.type_name
    if kind in ("string", "char", "character"):
        return text
    if kind == "boolean":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise malformed(path, "true or false")
    if kind in INTEGER_RANGES:
        low, high = INTEGER_RANGES[kind]
        stripped = text.strip()
        digits = stripped[1:] if stripped[:1] in ("-", "+") else stripped
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and low <= int(stripped) <= high):
            raise malformed(path, f"an integer between {low} and {high}")
        return int(stripped)
    if kind in ("float", "double"):
        try:
            number = float(text)
        except ValueError:
            raise malformed(path, "a number") from None
        if not math.isfinite(number):
            raise malformed(path, "a finite number")
        return number
    if kind == "timestamp":
        try:
            return parse_timestamp(text)
        except ValueError:
            raise malformed(path, "a timestamp") from None
    if kind == "blob":
        return parse_base64(text, path)
    raise malformed(path, f"a {kind}")


def render_text(shape: Shape, value: Any, timestamp_form: str) -> str:
    """Write a scalar as text."""
    kind = shape.type_name
    if kind == "boolean":
        return "true" if value else "false"
    if kind in ("float", "double"):
        return render_float(value) if not math.isfinite(value) else repr(value)
    if kind == "timestamp":
        return str(render_timestamp(value, shape.serialization.get("timestampFormat", timestamp_form)))
    if kind == "blob":
        raw = value.encode() if isinstance(value, str) else bytes(value)
        return base64.b64encode(raw).decode()
    return str(value)


def render_float(value: float) -> str:
    """Spell a number that is not finite."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"

"""How a record becomes text and comes back: JSON by msgspec, typed by the record's dataclass.

Owns :func:`encode_body` and :func:`decode_body`, shared by every Records store so that all of them
hand out the same values (a fresh copy at each read).
Fields a body does not have get the dataclass's default; fields the dataclass does not have are
dropped: a body of the version before, or after, can be read.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from understudy.core.errors import ValidationException

T = TypeVar("T")


def encode_body(value: Any) -> str:
    """Write a frozen dataclass, or a mapping of JSON-able values, as JSON.

    Raises:
        ValidationException: a text holds half a surrogate pair, which no store can keep.
    """
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise ValidationException(
            "1 validation error detected: a string in the request is not Unicode (a lone surrogate)."
        ) from error


def decode_body(body: str, kind: type[T]) -> T:
    """Read what :func:`encode_body` wrote."""
    return msgspec.json.decode(body, type=kind)

"""The values that pass between the steps of a request: what came, what was asked, what goes back.

Refuses header values that could split a response.  Main types: :class:`HttpRequest`, :class:`Call`,
:class:`Answer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.model import OperationModel

MAX_CONTROL_BODY_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64  # of nested JSON, XML and form keys (threat T15)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The head of a request.

    Attributes:
        raw_path: Percent-encoded as it came, without query.
        headers: In order; names in lower case.
    """

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: str) -> str | None:
        """Return the first header of that lower-case name, stripped."""
        wanted = name.encode()
        for key, value in self.headers:
            if key == wanted:
                return decode_header(value)
        return None

    def path_is(self, path: bytes) -> bool:
        """Compare the path, taking an empty one for ``/``."""
        return (self.raw_path or b"/") == path


class BodySource(Protocol):
    """The body of a request that is handled in a thread."""

    def read(self, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            ApiError: longer than the limit, or the client went away.
        """
        ...

    def stream(self) -> Iterator[bytes]:
        """Yield the body as it comes; once."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One operation that was asked for.

    Attributes:
        service: botocore's service name.
        protocol: ``json``, ``query``, ``rest-json``, ``rest-xml`` or ``smithy-rpc-v2-cbor``.
        labels: Decoded parts of the path by member wire name (REST).
        form: Decoded form fields (query protocol).
    """

    service: str
    operation: str
    protocol: str
    model: OperationModel
    labels: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """What goes back.  ``body`` is bytes, or an iterable that is sent as it is drawn."""

    status: int
    headers: dict[str, str]
    body: bytes | Iterable[bytes] = b""

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Encode the headers; control characters become spaces, so none can split the response."""
        return [(name.lower().encode("ascii"), encode_header(value)) for name, value in self.headers.items()]


Parameters = dict[str, Any]


def decode_header(value: bytes) -> str:
    """Decode a header value: UTF-8 where it is that, else Latin-1."""
    try:
        return value.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(" \t")


def encode_header(value: str) -> bytes:
    """Encode a header value; what would split a response becomes a space."""
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value)
    return value.encode("utf-8")

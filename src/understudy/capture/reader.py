"""Reading captured records: ours, AWS's, anybody's of that shape.

Owns :func:`parse_line` (one line of JSON to a :class:`Captured`), :func:`read_lines` (pieces of a file to
records) and :func:`read_window` (an endpoint's variant in a window of time, in order of its files).  Files
come from a :class:`Source`: the Objects port, a folder, or what a caller brings (the command line: S3).
Lenient where AWS's own files differ (members missing, order, blanks), strict about what is not a record.
"""

from __future__ import annotations

import gzip
import json
import zlib
from binascii import Error as BadBase64
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from understudy.capture.growing import bucket_and_prefix
from understudy.core.ports import Objects

PAGE = 1000
SUFFIXES = (".jsonl", ".jsonl.gz")
GZIP_MAGIC = b"\x1f\x8b"


class Side(msgspec.Struct, frozen=True):
    """One body as it was captured.

    Attributes:
        data: Text as it stands in the record.
        encoding: ``CSV``, ``JSON`` or ``BASE64``.
    """

    content_type: str
    data: str
    encoding: str

    @property
    def body(self) -> bytes:
        """The body's bytes.

        Raises:
            ValueError: the data is not the base64 it claims to be.
        """
        if self.encoding != "BASE64":
            return self.data.encode()
        try:
            return a2b_base64(self.data)
        except BadBase64 as error:
            raise ValueError(f"captured data is no base64: {error}") from error


class Captured(msgspec.Struct, frozen=True):
    """One record read.

    Attributes:
        at_s: Unix time of the request, in whole seconds as AWS keeps it.
        input, output: None: not captured.
    """

    event_id: str
    at_s: float
    inference_id: str | None
    custom_attributes: tuple[str, ...]
    input: Side | None
    output: Side | None


class NotARecord(ValueError):
    """A line that is no captured record; the text says why."""


def parse_line(line: bytes | str) -> Captured:
    """Read one line.

    Raises:
        NotARecord: it is none.
    """
    event = _json(line)
    if not isinstance(event, dict) or not isinstance(event.get("captureData"), dict):
        raise NotARecord("there is no captureData")
    metadata = event.get("eventMetadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("eventId"), str):
        raise NotARecord("there is no eventMetadata.eventId")
    inference_id = metadata.get("inferenceId")
    attributes = metadata.get("customAttributes")
    if not isinstance(attributes, list):
        attributes = [] if attributes is None else [attributes]
    data = event["captureData"]
    return Captured(
        event_id=metadata["eventId"],
        at_s=_time(metadata.get("inferenceTime")),
        inference_id=None if inference_id is None else str(inference_id),
        custom_attributes=tuple(map(str, attributes)),
        input=_side(data.get("endpointInput")),
        output=_side(data.get("endpointOutput")),
    )


def read_lines(
    pieces: Iterable[bytes], *, name: str = "line", on_bad: Callable[[str], None] | None = None
) -> Iterator[Captured]:
    """Read the records of one file.

    Args:
        pieces: The file's bytes in pieces of any size; gzip is seen through.
        name: Of the file, for messages.
        on_bad: Told of each line that is no record, which is left out.

    Raises:
        NotARecord: a line is none, and ``on_bad`` is None.
    """
    number = 0
    lines = plain_lines(pieces)
    while True:
        number += 1
        try:
            line = next(lines, None)
            if line is None:
                return
            if line.strip():
                yield parse_line(line)
        except NotARecord as error:
            problem = f"{name}:{number}: {error}"
            if on_bad is None:
                raise NotARecord(problem) from error
            on_bad(problem)


class Source(Protocol):
    """Where files are."""

    def keys(self, prefix: str, after: str) -> Iterator[str]:
        """Yield keys greater than ``after`` under a prefix, in order."""
        ...

    def read(self, key: str) -> Iterable[bytes]:
        """Yield a file's bytes."""
        ...


@dataclass(frozen=True)
class ObjectSource:
    """Files in a bucket of the Objects port."""

    objects: Objects
    bucket: str

    def keys(self, prefix: str, after: str) -> Iterator[str]:
        """Yield keys in order."""
        while page := self.objects.list(self.bucket, prefix, after, PAGE):
            yield from (one.key for one in page)
            after = page[-1].key

    def read(self, key: str) -> Iterable[bytes]:
        """Yield a file's bytes."""
        return self.objects.read(self.bucket, key)


@dataclass(frozen=True)
class FolderSource:
    """Files below a folder, as ``aws s3 sync`` leaves them."""

    root: Path

    def keys(self, prefix: str, after: str) -> Iterator[str]:
        """Yield relative paths in order."""
        paths = (path for path in (self.root / prefix).rglob("*") if path.is_file())
        yield from sorted(
            key for key in (path.relative_to(self.root).as_posix() for path in paths) if key > after
        )

    def read(self, key: str) -> Iterable[bytes]:
        """Yield a file's bytes."""
        return read_file(self.root / key)


def read_file(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces of 1 MiB."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def read_window(
    source: Source,
    destination: str,
    endpoint: str,
    variant: str,
    start_s: float,
    end_s: float,
    *,
    on_bad: Callable[[str], None] | None = None,
) -> Iterator[Captured]:
    """Read what was captured of a variant's requests in ``[start_s, end_s)``, file by file in order of time.

    Args:
        source: Of the destination's bucket; for a folder, one that holds what the bucket holds.
        destination: ``s3://bucket/prefix``.
        on_bad: As for :func:`read_lines`.
    """
    _, prefix = bucket_and_prefix(destination)
    root = f"{prefix}{endpoint}/{variant}/"
    first, last = _hour(start_s), _hour(end_s)
    # "!" sorts before every digit: the first hour's files are all greater.
    for key in source.keys(root, f"{root}{first}/!"):
        if key[len(root) : len(root) + len(last)] > last:
            return
        if not key.endswith(SUFFIXES):
            continue
        for captured in read_lines(source.read(key), name=key, on_bad=on_bad):
            if start_s <= captured.at_s < end_s:
                yield captured


def plain_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file without their ends; gzip is seen through."""
    rest = b""
    for piece in _inflated(pieces):
        lines = (rest + piece).split(b"\n") if b"\n" in piece else [rest + piece]
        rest = lines.pop()
        yield from lines
    if rest:
        yield rest


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    pieces = iter(pieces)
    first = next(pieces, b"")
    if first.startswith(GZIP_MAGIC):
        try:
            yield gzip.decompress(first + b"".join(pieces))
        except (EOFError, OSError, zlib.error) as error:
            raise NotARecord(f"broken gzip: {error}") from error
        return
    yield first
    yield from pieces


def _json(line: bytes | str) -> Any:
    """Read one line's JSON; halves of surrogate pairs, which no text has, become U+FFFD."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = error
    try:
        text = line if isinstance(line, str) else line.decode("utf-8-sig")
        # What msgspec refuses and JSON has: a byte order mark, and escapes of half a surrogate pair.
        halves = json.dumps(json.loads(text), ensure_ascii=False)
        return msgspec.json.decode(halves.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        raise NotARecord(f"not JSON: {problem}") from problem


def _side(value: Any) -> Side | None:
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        return None
    return Side(
        str(value.get("observedContentType") or ""), value["data"], str(value.get("encoding") or "BASE64")
    )


def _time(text: Any) -> float:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise NotARecord(f"eventMetadata.inferenceTime is {text!r}, no time") from error
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _hour(at_s: float) -> str:
    # Far beyond any file, within what a calendar holds.
    return datetime.fromtimestamp(min(max(at_s, 0.0), 253_402_300_000.0), UTC).strftime("%Y/%m/%d/%H")

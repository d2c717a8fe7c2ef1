"""Records of one variant on their way through the spool together, not rendered yet.

Owns :class:`Batch`, one frame for many small records, and :func:`read_records`, which renders what a segment
holds.  A router only packs (one call into C for hundreds of records, 0.1 microseconds each); the lines of
JSON are made by whoever collects, off the request path.  Refuses large bodies: those go by themselves, a
piece at a time (``capture.records``).

A batch's frame has an empty moment.  Its content is MessagePack: the event ids' common start, the CSV and the
JSON content types, the pairs of content types that occur, and per record :data:`Packed`.
Main functions: :meth:`Batch.pieces`, :func:`read_records`.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from understudy.capture.frames import Frame, Stream, read_frames
from understudy.capture.records import as_unicode, encoding_of, escaped, inference_time, moment_of

OVERHEAD_BYTES = 64  # of a packed record with empty bodies; about

# Number of the event id, Unix time, which pair of content types, request's and answer's body (None: not
# captured), InferenceId, CustomAttributes.
Packed = tuple[int, float, int, bytes | None, bytes | None, str | None, str | None]
_Content = tuple[str, tuple[str, ...], tuple[str, ...], list[tuple[str, str]], list[Packed]]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Content).decode
_encode = msgspec.json.Encoder().encode


class Batch:
    """Some records of one variant, packed.

    Args:
        ids: What the event ids begin with; twelve digits follow, a record's number in hexadecimal.
        types: Content types of request and answer, as records refer to them.
    """

    __slots__ = ("_content", "count", "destination", "endpoint", "variant")

    def __init__(
        self,
        destination: str,
        endpoint: str,
        variant: str,
        ids: str,
        csv_types: tuple[str, ...],
        json_types: tuple[str, ...],
        types: list[tuple[str, str]],
        records: list[Packed],
    ) -> None:
        self.destination = destination
        self.endpoint = endpoint
        self.variant = variant
        self.count = len(records)
        try:
            self._content = _pack((ids, csv_types, json_types, types, records))
        except UnicodeEncodeError:  # half a surrogate pair in a header
            self._content = _pack(as_unicode([ids, csv_types, json_types, types, records]))

    @property
    def moment(self) -> str:
        """Empty: each record has its own."""
        return ""

    @property
    def size_bytes(self) -> int:
        """About how much memory the batch holds."""
        return len(self._content) + OVERHEAD_BYTES

    def pieces(self) -> Iterator[bytes]:
        """Give the frame's content."""
        yield self._content


@dataclass(slots=True)
class Lines:
    """Lines of JSON of one stream, in the order in which they were spooled.

    Attributes:
        first, last: Earliest and latest, ``MM-SS-mmm``.
    """

    first: str
    last: str
    lines: list[bytes]

    def add(self, more: Lines) -> None:
        """Put more lines behind these."""
        self.first, self.last = min(self.first, more.first), max(self.last, more.last)
        self.lines += more.lines


def read_records(segment: bytes) -> Iterator[tuple[Stream, Lines, int]]:
    """Yield what a segment holds, rendered, up to the first frame that is not whole.

    Returns:
        Stream, some of its lines, and the offset of their frame's end.
    """
    for frame in read_frames(segment):
        if frame.moment:
            yield frame.stream, Lines(frame.moment, frame.moment, [frame.line]), frame.end
            continue
        try:
            found = render_batch(frame)
        except msgspec.DecodeError:  # by another version, perhaps: for a person to look at
            return
        for stream, lines in found.items():
            yield stream, lines, frame.end


def render_batch(frame: Frame) -> dict[Stream, Lines]:
    """Render the records of a batch's frame, by stream: an hour may end within it.

    Raises:
        msgspec.DecodeError: the frame's content is something else.
    """
    ids, csv_types, json_types, types, records = _unpack(frame.line)
    event_id = b'},"eventMetadata":{"eventId":"' + ids.encode()
    kinds = []
    for request_type, answer_type in types:
        of_request = _Side("Input", request_type, csv_types, json_types)
        of_answer = _Side("Output", answer_type, csv_types, json_types)
        kinds.append((of_request, of_answer, _plain_line(of_request, of_answer, event_id)))
    found: dict[Stream, Lines] = {}
    by_hour: dict[int, list[bytes]] = {}
    spans: dict[int, tuple[float, float]] = {}
    second, ending = -1, b""
    for number, at_s, kind, request, answer, inference_id, attributes in records:
        hour = round(at_s * 1000) // 3_600_000
        lines = by_hour.get(hour)
        if lines is None:
            lines, spans[hour] = by_hour.setdefault(hour, []), (at_s, at_s)
        elif not spans[hour][0] <= at_s <= spans[hour][1]:
            spans[hour] = min(spans[hour][0], at_s), max(spans[hour][1], at_s)
        if int(at_s) != second:
            second = int(at_s)
            ending = b'"inferenceTime":"%b"},"eventVersion":"0"}' % inference_time(second).encode()
        told = ending
        if inference_id:
            told = b'"inferenceId":%b,%b' % (escaped(_encode(inference_id)), told)
        if attributes:
            told = b'"customAttributes":[%b],%b' % (escaped(_encode(attributes)), told)
        of_request, of_answer, plain = kinds[kind]
        if plain and request is not None and answer is not None and request.isascii() and answer.isascii():
            # Nearly all records, in two thirds of the time.
            lines.append(plain % (_encode(request.decode()), _encode(answer.decode()), number, told))
            continue
        sides = b"" if request is None else of_request.render(request)
        if answer is not None:
            sides = b"%b,%b" % (sides, of_answer.render(answer)) if sides else of_answer.render(answer)
        lines.append(b'{"captureData":{%b%b%012x",%b' % (sides, event_id, number, told))
    for hour, lines in by_hour.items():
        first, last = map(moment_of, spans[hour])
        folder, _, first = first.rpartition("/")
        found[*frame.stream[:3], folder] = Lines(first, last.rpartition("/")[2], lines)
    return found


def _plain_line(of_request: _Side, of_answer: _Side, event_id: bytes) -> bytes | None:
    """Return the line of two bodies that are ASCII text, to be filled in; None where one is never text."""
    if not (of_request.is_text and of_answer.is_text):
        return None
    sides = of_request.pattern() + b"," + of_answer.pattern()
    return b'{"captureData":{' + sides + event_id.replace(b"%", b"%%") + b'%012x",%b'


class _Side:
    """Renders requests or answers of one content type."""

    __slots__ = ("_ending", "_start", "is_text")

    def __init__(
        self, side: str, content_type: str, csv_types: tuple[str, ...], json_types: tuple[str, ...]
    ) -> None:
        encoding = encoding_of(content_type, csv_types, json_types)
        self.is_text = encoding != "BASE64"
        observed = escaped(_encode(content_type))
        self._start = b'"endpoint%b":{"observedContentType":%b,"mode":"%b","data":' % (
            side.encode(),
            observed,
            side.upper().encode(),
        )
        self._ending = b',"encoding":"%b"}' % encoding.encode()

    def pattern(self) -> bytes:
        """Return what ``%`` makes the rendering of, given the JSON string of a text."""
        return self._start.replace(b"%", b"%%") + b"%b" + self._ending.replace(b"%", b"%%")

    def render(self, body: bytes) -> bytes:
        if self.is_text:
            try:
                data = _encode(str(body, "utf-8"))
            except UnicodeDecodeError:
                pass
            else:
                return self._start + (data if body.isascii() else escaped(data)) + self._ending
        return b'%b"%b","encoding":"BASE64"}' % (self._start, b2a_base64(body, newline=False))

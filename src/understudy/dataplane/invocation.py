"""What InvokeEndpoint and its streaming kin say in path and headers, checked against botocore's shapes.

Owns :class:`Invocation` and the wire head made of it.  Refuses nothing itself: a broken constraint is kept
as ``fault``, because it is told only to callers whose signature holds.
Main function: :func:`read_invocation`.

Source: botocore 1.44 sagemaker-runtime, InvokeEndpointInput and InvokeEndpointWithResponseStreamInput.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote_to_bytes

from understudy.core.assignment import unit_of
from understudy.dataplane.guard import Head

MAX_BODY_BYTES = 6_291_456  # BodyBlob
MIRRORED_KEY = "\0"  # before a shadow's name in :attr:`Invocation.heads`

_PATH = re.compile(rb"/endpoints/([^/]+)/invocations(-response-stream)?")
_PREFIX = b"x-amzn-sagemaker-"
_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"
_ASCII = r"[\x00-\x7f]*"
_PRINT = r"\S[ -~\u00a0-\U0010ffff]*"
_SESSION = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"

# member, header, shortest, longest, pattern as matched, pattern as botocore words it
_Constraint = tuple[str, bytes, int, int, re.Pattern[str], str]


def _constraint(member: str, header: bytes, low: int, high: int, pattern: str, wording: str) -> _Constraint:
    return member, header, low, high, re.compile(pattern), wording


_NAME_WORDING = "^[a-zA-Z0-9](-*[a-zA-Z0-9])*"
_COMMON = (
    _constraint("contentType", b"content-type", 0, 1024, _ASCII, "\\p{ASCII}*"),
    _constraint("customAttributes", _PREFIX + b"custom-attributes", 0, 1024, _ASCII, "\\p{ASCII}*"),
    _constraint("targetVariant", _PREFIX + b"target-variant", 0, 63, _NAME, _NAME_WORDING),
    _constraint(
        "targetContainerHostname", _PREFIX + b"target-container-hostname", 0, 63, _NAME, _NAME_WORDING
    ),
    _constraint("inferenceId", _PREFIX + b"inference-id", 1, 64, _PRINT, "\\A\\S[\\p{Print}]*\\z"),
    _constraint(
        "inferenceComponentName",
        _PREFIX + b"inference-component",
        0,
        63,
        r"[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?",
        "^[a-zA-Z0-9]([\\-a-zA-Z0-9]*[a-zA-Z0-9])?$",
    ),
    _constraint("prefixAwareId", _PREFIX + b"prefix-aware-id", 1, 64, _PRINT, "\\A\\S[\\p{Print}]*\\z"),
)
_PLAIN = (
    *_COMMON,
    _constraint("accept", b"accept", 0, 1024, _ASCII, "\\p{ASCII}*"),
    _constraint("targetModel", _PREFIX + b"target-model", 1, 1024, _PRINT, "\\A\\S[\\p{Print}]*\\z"),
    _constraint("enableExplanations", _PREFIX + b"enable-explanations", 1, 64, r".*", ".*"),
    _constraint(
        "sessionId",
        _PREFIX + b"session-id",
        0,
        256,
        rf"NEW_SESSION|{_SESSION}",
        "^(NEW_SESSION)$|^[a-zA-Z0-9](-*[a-zA-Z0-9])*$",
    ),
)
_STREAM = (
    *_COMMON,
    _constraint("accept", _PREFIX + b"accept", 0, 1024, _ASCII, "\\p{ASCII}*"),
    _constraint("sessionId", _PREFIX + b"session-id", 0, 256, _SESSION, "^[a-zA-Z0-9](-*[a-zA-Z0-9])*$"),
)
_NAMES = tuple(sorted({header for _, header, *_ in (*_PLAIN, *_STREAM)}))
_ENDPOINT_NAME = re.compile(_NAME)


class Invocation:
    """One InvokeEndpoint request but for its body.

    Attributes:
        endpoint: EndpointName, percent-decoded.
        streams: The caller asked for a streamed answer.
        target_variant: TargetVariant, if sent.
        fault: AWS's text for the constraints that are broken, or None.
        heads: Wire head by name of the variant that is to answer; see :meth:`wire_head`.
        is_identified: The caller gave an InferenceId.
    """

    __slots__ = (
        "_fields",
        "_told",
        "_unit",
        "endpoint",
        "fault",
        "heads",
        "is_identified",
        "streams",
        "target_variant",
    )

    def __init__(self, endpoint: str, fields: dict[bytes, bytes], streams: bool) -> None:
        self.endpoint = endpoint
        self.streams = streams
        target = fields.get(_PREFIX + b"target-variant")
        self.target_variant = None if target is None else target.decode("utf-8", "replace")
        self.fault = _broken(endpoint, fields, _STREAM if streams else _PLAIN)
        self.heads: dict[str, bytes] = {}  # one per variant of one endpoint: few
        self._fields = fields
        self.is_identified = _PREFIX + b"inference-id" in fields
        self._told: tuple[str, str | None, str | None] | None = None
        self._unit: tuple[str, str | None] = ("", None)

    @property
    def told(self) -> tuple[str, str | None, str | None]:
        """Content type, InferenceId and CustomAttributes as the caller gave them, for capture."""
        told = self._told
        if told is None:
            get = self._fields.get
            inference_id, attributes = get(_PREFIX + b"inference-id"), get(_PREFIX + b"custom-attributes")
            told = self._told = (
                get(b"content-type", b"").decode("utf-8", "surrogateescape"),
                None if inference_id is None else inference_id.decode("utf-8", "surrogateescape"),
                None if attributes is None else attributes.decode("utf-8", "surrogateescape"),
            )
        return told

    def unit(self, sticky: str) -> str | None:
        """Return the request's unit, None without one.

        Args:
            sticky: What units are at its endpoint (``core.assignment``).
        """
        known, unit = self._unit
        if known != sticky:
            session = self._fields.get(_PREFIX + b"session-id")
            session_id = None if session is None else session.decode("utf-8", "surrogateescape")
            unit = unit_of(sticky, session_id, self.told[2])
            self._unit = (sticky, unit)
        return unit

    def wire_head(self, variant: str, *, mirrored: bool = False) -> bytes:
        """Return the request head for a worker: the fields of ``worker.wire``, NUL-joined, as bytes.

        Args:
            mirrored: It is a shadow's copy.
        """
        # A shadow that is promoted keeps its name: its copies' head must not become its requests'.
        key = MIRRORED_KEY + variant if mirrored else variant
        head = self.heads.get(key)
        if head is None:
            get = self._fields.get
            flags = b"s" if self.streams else b""
            head = b"\0".join(
                (
                    get(b"content-type", b""),
                    get(_PREFIX + b"accept" if self.streams else b"accept", b""),
                    flags + b"m" if mirrored else flags,
                    get(_PREFIX + b"custom-attributes", b""),
                    get(_PREFIX + b"inference-id", b""),
                    get(_PREFIX + b"target-model", b""),
                    get(_PREFIX + b"target-container-hostname", b""),
                    get(_PREFIX + b"session-id", b""),
                    variant.encode(),
                )
            )
            self.heads[key] = head
        return head


def read_invocation(head: Head) -> Invocation | None:
    """Say what a request invokes, or None when it is some other request."""
    if head.method != b"POST" or not head.path.startswith(b"/endpoints/"):
        return None
    return _invocation(head.path, tuple(map(head.fields.get, _NAMES)))


# A signed client's heads never repeat, but what they say of the invocation does.
@functools.lru_cache(maxsize=1024)
def _invocation(path: bytes, values: tuple[bytes | None, ...]) -> Invocation | None:
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    name = match.group(1)
    if b"%" in name:
        name = unquote_to_bytes(name)
    fields = {header: value for header, value in zip(_NAMES, values, strict=True) if value is not None}
    return Invocation(name.decode("utf-8", "replace"), fields, match.group(2) is not None)


def _broken(endpoint: str, fields: dict[bytes, bytes], constraints: tuple[_Constraint, ...]) -> str | None:
    findings: list[str] = []
    if len(endpoint) > 63:
        findings.append(_finding(endpoint, "endpointName", "have length less than or equal to 63"))
    if _ENDPOINT_NAME.fullmatch(endpoint) is None:
        findings.append(
            _finding(endpoint, "endpointName", f"satisfy regular expression pattern: {_NAME_WORDING}")
        )
    for member, header, low, high, pattern, wording in constraints:
        raw = fields.get(header)
        if raw is None:
            continue
        value = raw.decode("utf-8", "replace")
        if len(value) > high:
            findings.append(_finding(value, member, f"have length less than or equal to {high}"))
        elif len(value) < low:
            findings.append(_finding(value, member, f"have length greater than or equal to {low}"))
        elif pattern.fullmatch(value) is None:
            findings.append(_finding(value, member, f"satisfy regular expression pattern: {wording}"))
    if not findings:
        return None
    plural = "s" if len(findings) > 1 else ""
    return f"{len(findings)} validation error{plural} detected: " + "; ".join(findings)


def _finding(value: str, member: str, must: str) -> str:
    return f"Value '{value}' at '{member}' failed to satisfy constraint: Member must {must}"

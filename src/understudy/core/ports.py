"""Ports: the seams between decisions and the world.  At most five methods each.

Every port has a double that ships with it (``stores/memory.py``, ``runtimes/memory.py``) and one
contract suite in ``tests/contracts`` that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from understudy.core.assignment import Assignment, KeptAssignment, Receipt
from understudy.core.metrics import Bucket, Datum, SeriesKey
from understudy.core.models import Container
from understudy.core.outcomes import Added, KeptOutcome, Outcome, Tally
from understudy.core.stages import Arm, Counts, KeptCounts, Stage


class Clock(Protocol):
    """Time.  ``--time-scale`` makes both run faster than the wall."""

    def now_s(self) -> float:
        """Unix time in seconds."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        ...


class Entropy(Protocol):
    """Dice."""

    def uniform(self) -> float:
        """Draw from [0, 1)."""
        ...

    def token(self, length_bytes: int) -> str:
        """Draw a hex string of ``2 * length_bytes`` characters, fit for ids and secrets."""
        ...


# --- records ---------------------------------------------------------------------------------------


class Keyed(Protocol):
    """What can be a record: a frozen dataclass of JSON-able fields with these attributes.

    A ``status`` attribute, where there is one, can be queried.
    """

    KIND: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def created_at_s(self) -> float: ...
    @property
    def modified_at_s(self) -> float: ...


T = TypeVar("T", bound=Keyed)


@dataclass(frozen=True)
class Stored(Generic[T]):
    """A record with its version, 1 when new, one more at each change."""

    value: T
    version: int


@dataclass(frozen=True)
class Put:
    """Create (``expected_version=0``) or replace (the version that was read) a record."""

    value: Keyed
    expected_version: int


@dataclass(frozen=True)
class Delete:
    """Remove a record of that version."""

    kind: type[Any]
    name: str
    expected_version: int


@dataclass(frozen=True)
class Event:
    """One line of the audit trail.

    Attributes:
        subject: ARN it is about.
        kind: Short and stable, e.g. ``EndpointCreated``, ``WeightsChanged``, ``InstanceFailed``.
        detail: JSON-able facts: who, from what, to what, why.
        sequence: Given by the store, rising; 0 before.
    """

    subject: str
    kind: str
    at_s: float
    detail: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0


@dataclass(frozen=True)
class Query:
    """Filters, order and page of a listing.  None means no filter.

    Attributes:
        name_contains: Substring; ASCII letters match in either case.
        created_after_s: Inclusive, as AWS's ``CreationTimeAfter``; ``..._before_s`` excludes its bound.
        sort_by: ``name``, ``created``, ``modified`` or ``status``; ties are broken by name; text is
            ordered by code point.
        descending: Turns the whole order round, ties too.
        after: Resume after this (sort value, name), as :func:`page_key` of the last one seen.
        limit: At most so many.
    """

    name_contains: str | None = None
    status: str | None = None
    created_after_s: float | None = None
    created_before_s: float | None = None
    modified_after_s: float | None = None
    modified_before_s: float | None = None
    sort_by: str = "name"
    descending: bool = False
    after: tuple[float | str, str] | None = None
    limit: int | None = None


def page_key(value: Keyed, sort_by: str) -> tuple[float | str, str]:
    """Say where a record stands in an order: what ``Query.after`` takes to resume behind it.

    Args:
        sort_by: As in :class:`Query`.
    """
    if sort_by == "created":
        return (value.created_at_s, value.name)
    if sort_by == "modified":
        return (value.modified_at_s, value.name)
    if sort_by == "status":
        return (str(getattr(value, "status", None) or ""), value.name)
    return (value.name, value.name)


class Records(Protocol):
    """Desired state, intents and the audit trail.  What ``commit`` returned from is on disk."""

    def get(self, kind: type[T], name: str) -> Stored[T] | None:
        """Read one record."""
        ...

    def find(self, kind: type[T], query: Query) -> list[Stored[T]]:
        """Read a page of records."""
        ...

    def commit(self, changes: Sequence[Put | Delete | Event]) -> None:
        """Apply all changes or none.

        Raises:
            core.errors.Conflict: a version was not the expected one.
        """
        ...

    def events(
        self,
        subject: str | None,
        after_sequence: int,
        limit: int,
        *,
        kinds: Collection[str] = (),
        newest_first: bool = False,
    ) -> list[Event]:
        """Read the audit trail in order; ``subject`` None reads all.

        Args:
            kinds: Only events of these kinds; empty for all.
            newest_first: Read backwards: from before ``after_sequence``, or from the end where it is 0.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


# --- objects ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectInfo:
    """One object's facts.

    Attributes:
        etag: Without quotes; MD5 hex for a plain put, ``md5-of-md5s-N`` for multipart.
        headers: Stored response headers by lower-case name: content-type, cache-control,
            content-disposition, content-encoding, ...
        metadata: ``x-amz-meta-*`` without the prefix.
        checksums: e.g. ``{"CRC32": "base64..."}``.
    """

    bucket: str
    key: str
    size_bytes: int
    etag: str
    modified_at_s: float
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Joined:
    """A body made of stored objects, one after the other; a store that can takes them over uncopied.

    Attributes:
        parts: As ``put``, ``head`` or ``list`` told them.
        move: The parts vanish under their own names in the same step.
    """

    parts: tuple[ObjectInfo, ...]
    move: bool = False


class Reading(Iterator[bytes], Protocol):
    """The bytes of one object as it was when the reading began, whatever happens to it meanwhile."""

    @property
    def info(self) -> ObjectInfo:
        """Facts of what is being read."""
        ...

    def close(self) -> None:
        """Let go before the end; reading to the end does it too."""
        ...


class Buckets(Protocol):
    """The buckets of an object store.

    A name that begins with a dot is a scratch bucket: no client can name it, ``list_buckets`` leaves it out.
    """

    def create_bucket(self, bucket: str) -> bool:
        """Create it; False when it was there."""
        ...

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket.

        Raises:
            ApiError: NoSuchBucket 404, BucketNotEmpty 409.
        """
        ...

    def list_buckets(self) -> list[tuple[str, float]]:
        """Return (name, created_at_s), sorted by name; scratch buckets are left out."""
        ...


class Objects(Protocol):
    """Objects in buckets.  What ``put`` returned from is on disk; readers see old or new, never half."""

    def put(
        self,
        bucket: str,
        key: str,
        body: Iterable[bytes] | Joined,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        checksums: Mapping[str, str] | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Store an object whole.

        Args:
            checksums: Looked at after the body was read, so that a trailer can still fill it.
            etag: None computes the MD5.
            if_match: Replace only the object that has this ETag (without quotes).
            if_absent: Create only.

        Raises:
            ApiError: NoSuchBucket 404; NoSuchKey 404 or PreconditionFailed 412 of ``if_match`` and
                ``if_absent``; InsufficientStorage 503 when the disk is full.
            core.errors.Conflict: a part of a ``Joined`` changed or vanished since it was looked at.
        """
        ...

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return facts.

        Raises:
            ApiError: NoSuchBucket or NoSuchKey, 404.
        """
        ...

    def read(self, bucket: str, key: str, start: int = 0, length: int | None = None) -> Reading:
        """Yield the bytes from ``start``, ``length`` of them at most, in pieces of about 1 MiB.

        Raises:
            ApiError: NoSuchBucket or NoSuchKey, 404; at once, not at the first piece.
        """
        ...

    def delete(self, bucket: str, *keys: str, if_match: str | None = None) -> None:
        """Remove objects, all in one step where the store can; a missing one is no error (as S3).

        Args:
            if_match: Remove only while the ETag (without quotes) is this one.

        Raises:
            ApiError: NoSuchBucket 404, PreconditionFailed 412.
        """
        ...

    def list(self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """Return objects with ``key > after`` under the prefix, in UTF-8 byte order of their keys.

        Over a foreign object store the infos may lack headers, metadata and checksums; ``head`` has them.
        """
        ...


# --- series ----------------------------------------------------------------------------------------


class Series(Protocol):
    """CloudWatch metrics.  What ``record`` returned from is on disk."""

    def record(self, data: Sequence[Datum], *, source: str = "", sequence: int = 0) -> bool:
        """Merge data in; exactly once per (source, sequence) when a source is named.

        Returns:
            False when that source's sequence (or a later one) was recorded before.
        """
        ...

    def keys(
        self, namespace: str | None = None, metric_name: str | None = None
    ) -> list[tuple[SeriesKey, float]]:
        """Return metrics and the Unix time of their newest sample."""
        ...

    def read(self, key: SeriesKey, start_s: int, end_s: int, period_s: int) -> list[Bucket]:
        """Return the non-empty periods that start in [start_s, end_s), merged per unit, aligned to the
        period's multiples since the epoch, in order of start."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


# --- evidence --------------------------------------------------------------------------------------


class Stages(Protocol):
    """The stages of endpoints.  What ``begin`` and ``end`` returned from is on disk."""

    def begin(self, endpoint: str, arms: Sequence[Arm], sticky: str, at_s: float) -> Stage:
        """Begin an endpoint's next stage, and end the one before in the same step."""
        ...

    def end(self, endpoint: str, at_s: float) -> None:
        """End an endpoint's stage; none that is open is no error."""
        ...

    def open(self) -> list[Stage]:
        """Return the stage that is not ended of every endpoint that has one, by name."""
        ...

    def find(self, endpoint: str) -> list[Stage]:
        """Return all stages of an endpoint, oldest first."""
        ...


class Evidence(Protocol):
    """What became of the requests of each stage.  What ``record`` returned from is on disk."""

    def record(self, counts: Sequence[Counts], *, source: str, sequence: int) -> bool:
        """Keep counts, exactly once per (source, sequence).

        Returns:
            False when that source's sequence (or a later one) was recorded before.
        """
        ...

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptCounts]:
        """Return counts with ``sequence > after`` in the order in which they were kept."""
        ...

    def totals(self, endpoint: str) -> list[Counts]:
        """Return the sums per stage, arm and source, by stage; ``at_s`` is their newest second."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class AssignmentBatches(Protocol):
    """Assignments as they come in.  What ``add`` returned from is on disk."""

    def add(self, batch: str, writer: str, assignments: Sequence[Assignment]) -> Receipt:
        """Keep a batch, once: one that was added and not forgotten is recognised by its name."""
        ...

    def forget_batch(self, batch: str) -> None:
        """Forget a batch's name: it will not be added again."""
        ...

    def taken(self, writer: str) -> dict[tuple[str, str], int]:
        """Count what was added of a writer, by (endpoint, variant)."""
        ...

    def remember(self, writers: Collection[str]) -> None:
        """Forget how much was added of all writers but these."""
        ...


class Assignments(Protocol):
    """Who was assigned what, request by request."""

    def find(self, endpoint: str, ids: Collection[str]) -> dict[str, Assignment]:
        """Look requests up by inference id or event id; of several with one id, the first to be routed."""
        ...

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptAssignment]:
        """Return assignments with ``sequence > after`` in the order in which they were kept."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


# --- outcomes ----------------------------------------------------------------------------------------


class Outcomes(Protocol):
    """Labels and other outcomes of requests.  What ``add`` returned from is on disk."""

    def add(self, endpoint: str, outcomes: Sequence[Outcome], received_at_s: float) -> Added:
        """Keep what is reported for the first time, count the rest; all of the batch or nothing."""
        ...

    def find(
        self, endpoint: str, name: str, ids: Collection[str], subject: str = "id"
    ) -> dict[str, KeptOutcome]:
        """Return the outcomes of that name by id, of those ids that have one."""
        ...

    def after(self, endpoint: str, sequence: int, limit: int) -> list[KeptOutcome]:
        """Return outcomes with a greater sequence, in order."""
        ...

    def tallies(self, endpoint: str) -> list[Tally]:
        """Count reports, sorted by name and subject."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


# --- logs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogEvent:
    """One line of a worker's output.

    Attributes:
        position: Byte offset of the line's start in its stream: rises within a stream, never reused.
        at_ms: Unix milliseconds at which the line was seen.
    """

    position: int
    at_ms: int
    message: str


@dataclass(frozen=True)
class LogStream:
    """One instance's output: name ``VARIANT/INSTANCE`` as on AWS (``AllTraffic/i-0abc``)."""

    name: str
    created_at_ms: int
    first_event_ms: int | None
    last_event_ms: int | None
    stored_bytes: int


class Logs(Protocol):
    """Workers' output by log group (``/aws/sagemaker/Endpoints/NAME``) and stream."""

    def groups(self) -> list[tuple[str, int, int]]:
        """Return (group name, created_at_ms, stored_bytes), sorted by name."""
        ...

    def streams(self, group: str) -> list[LogStream]:
        """Return the streams of a group, sorted by name; empty for an unknown group."""
        ...

    def read(self, group: str, stream: str, after_position: int = -1, limit: int = 10_000) -> list[LogEvent]:
        """Return lines with ``position > after_position``, in order."""
        ...

    def delete(self, group: str) -> None:
        """Forget a group."""
        ...


# --- runtime ---------------------------------------------------------------------------------------


class InstanceStatus(StrEnum):
    """The life of an instance: forward only, FAILED and STOPPED are ends."""

    PREPARING = "Preparing"  # fetching the artifact, building the environment
    STARTING = "Starting"  # the worker runs and loads its model
    READY = "Ready"
    FAILED = "Failed"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class InstanceSpec:
    """Everything a runtime needs to run one instance.

    Attributes:
        instance_id: ``ENDPOINT/VARIANT/FLEET/NUMBER-INCARNATION``; unique for ever.
        title: ``understudy worker ENDPOINT/VARIANT/NUMBER``, what ``ps`` shows.
        log_stream: ``VARIANT/...``; the group is the endpoint's.
        vcpus: Of the instance type: threads per model.
        memory_bytes: Of the instance type.
        cpu_percent: The most that its processes may use together, 100 is one processor; 0: no ceiling.
        patient: Others answer until it is ready: starting it must not slow them down.  A patient shadow, one
            that is only replaced, may take its time.
    """

    instance_id: str
    endpoint_name: str
    variant_name: str
    title: str
    containers: tuple[Container, ...]
    direct: bool
    instance_type: str
    vcpus: int
    memory_bytes: int
    startup_timeout_s: int
    download_timeout_s: int
    shadow: bool = False
    cpu_percent: int = 0
    patient: bool = False


@dataclass(frozen=True)
class InstanceState:
    """What a runtime sees of one instance.

    Attributes:
        reason: For FAILED and STOPPED: what happened and what to do, fit for FailureReason.
        address: Where routers reach it, once READY (see InstanceRoute.address).
        detail: One short phrase of progress (``building environment xgboost 1.7.6``).
        images: Per container: specified image, resolved image text, epoch seconds of resolution.
        artifacts: Per container: SHA-256 of its model data ("" without any), and the name and version that
            the artifact gives itself ("" where it gives none).
        cpu_percent: 0 to 100 x vCPUs; memory and disk 0 to 100 of the instance type; None if unknown.
    """

    instance_id: str
    status: InstanceStatus
    reason: str = ""
    address: str = ""
    detail: str = ""
    pid: int | None = None
    images: tuple[tuple[str, str, float], ...] = ()
    artifacts: tuple[tuple[str, str, str], ...] = ()
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None


class Runtime(Protocol):
    """Where models run.  ``start`` and ``stop`` are idempotent and return at once; ``observe`` tells."""

    def start(self, spec: InstanceSpec) -> None:
        """Begin to run an instance; a known instance_id is left as it is."""
        ...

    def stop(self, instance_id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after ``grace_s``, then forget it and its files; unknown ids are no error."""
        ...

    def observe(self) -> Sequence[InstanceState]:
        """Return every known instance, those of an earlier controller that still run included."""
        ...

    def close(self) -> None:
        """Stop own threads; the instances run on."""
        ...

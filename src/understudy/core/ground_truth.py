"""Where an endpoint's labels come from: an S3 prefix that is read again and again.

Owns the record :class:`GroundTruth`: what was asked for, and which files have been read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

# A file that is older than the newest one by more than this is not looked for among those that were read.
SETTLES_AFTER_S = 86_400.0
TOLD_PROBLEMS = 5


@dataclass(frozen=True)
class GroundTruth:
    """The source of one endpoint's labels, and how far it has been read.

    Attributes:
        name: The endpoint's.
        s3_uri: ``s3://bucket/prefix``.
        attribute: Member of JSON labels; None: ``label``, or the only one.
        created_at_s: When it was asked for.
        read: (ETag, modified at) by key of the files read that are not settled.
        settled_before_s: Files modified before were all read.
        files, lines, bad_lines: Read so far.
        problems: The latest lines that are no labels, and why; or why the prefix can't be read.
    """

    KIND: ClassVar[str] = "ground-truth"
    name: str
    s3_uri: str
    created_at_s: float
    modified_at_s: float
    attribute: str | None = None
    read: dict[str, tuple[str, float]] = field(default_factory=dict)
    settled_before_s: float = 0.0
    files: int = 0
    lines: int = 0
    bad_lines: int = 0
    problems: tuple[str, ...] = ()


def is_new(truth: GroundTruth, key: str, etag: str, modified_at_s: float) -> bool:
    """Tell whether a file, as it is now, has not been read."""
    known = truth.read.get(key)
    return modified_at_s >= truth.settled_before_s if known is None else known[0] != etag


def settle(truth: GroundTruth, present: Mapping[str, float]) -> GroundTruth:
    """Forget old files after a look at all of them.

    Args:
        present: When each file of the prefix was modified; all of them were read.
    """
    if not present:
        return truth
    before_s = max(truth.settled_before_s, max(present.values()) - SETTLES_AFTER_S)
    kept = {key: facts for key, facts in truth.read.items() if facts[1] >= before_s and key in present}
    return replace(truth, read=kept, settled_before_s=before_s)

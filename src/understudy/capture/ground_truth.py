"""SageMaker's ground truth: JSON Lines below an S3 prefix, each the label of one captured request.

Owns :func:`parse_ground_truth` (one line to an :class:`~understudy.core.outcomes.Outcome`) and
:func:`list_files` (the files of a prefix).  Refuses a line that names no event or
no label, telling why; the lines around it count.

A line is ``{"groundTruthData":{"data":"1","encoding":"CSV"},"eventMetadata":{"eventId":"57"},
"eventVersion":"0"}``.  ``eventId`` is the request's inference id where the caller gave one, else its event
id.  ``data`` may be JSON: a scalar, ``{"label": 0}`` or ``{"instances": [{"label": 0}, ...]}``.

Source: "Ingest Ground Truth labels and merge them with predictions", Amazon SageMaker Developer Guide.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from understudy.capture.reader import NotARecord
from understudy.core.outcomes import LABEL, LONGEST_ID, Outcome, plain_value
from understudy.core.ports import ObjectInfo, Objects

PAGE = 1000


def parse_ground_truth(line: bytes, *, at_s: float, source: str, attribute: str | None = None) -> Outcome:
    """Read one line.

    Args:
        at_s: When the label came true as far as is known, e.g. when its file was written; Unix seconds.
        source: ``s3://bucket/key:number``.
        attribute: Member of JSON data that holds the label; None: ``label``, or the only one.

    Raises:
        NotARecord: it is none; the text says why.

    >>> parse_ground_truth(
    ...     b'{"groundTruthData":{"data":"1","encoding":"CSV"},"eventMetadata":{"eventId":"57"}}',
    ...     at_s=0.0, source="")
    Outcome(id='57', name='label', value=1.0, at_s=0.0, source='', subject='id')
    """
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord(f"not JSON: {error}") from error
    if not isinstance(event, dict) or not isinstance(event.get("groundTruthData"), dict):
        raise NotARecord("there is no groundTruthData")
    metadata = event.get("eventMetadata")
    event_id = metadata.get("eventId") if isinstance(metadata, dict) else None
    if isinstance(event_id, int) and not isinstance(event_id, bool):
        event_id = str(event_id)
    if not isinstance(event_id, str) or not event_id:
        raise NotARecord("there is no eventMetadata.eventId")
    if len(event_id) > LONGEST_ID:
        raise NotARecord(f"eventMetadata.eventId is longer than {LONGEST_ID} characters")
    try:
        value = plain_value(_labels(event["groundTruthData"], attribute))
    except ValueError as error:
        raise NotARecord(f"the label {error}") from error
    except RecursionError as error:
        raise NotARecord("the label is nested too deeply") from error
    return Outcome(event_id, LABEL, value, at_s, source)


def _labels(truth: Mapping[str, Any], attribute: str | None) -> Any:
    """Take the label out of the data of a line.

    Raises:
        ValueError: there is none.
    """
    data, encoding = truth.get("data"), str(truth.get("encoding") or "CSV").upper()
    if encoding == "CSV":
        if not isinstance(data, str):
            raise ValueError("is no text, as encoding CSV has it")
        try:
            rows = [row for row in csv.reader(io.StringIO(data)) if row]
        except csv.Error as error:
            raise ValueError(f"is not CSV: {error}") from error
        labels = [cell for row in rows for cell in row]
        return labels[0] if len(labels) == 1 else labels
    if encoding != "JSON":
        raise ValueError(f"is encoded as {encoding[:40]!r}; CSV and JSON can be read")
    if isinstance(data, str):
        try:
            data = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"is not JSON: {error}") from error
    return _label_of(data, attribute)


def _label_of(data: Any, attribute: str | None) -> Any:
    if isinstance(data, list):
        return [_label_of(one, attribute) for one in data]
    if not isinstance(data, dict):
        return data
    if attribute is not None:
        if attribute not in data:
            raise ValueError(f"has no member {attribute!r}")
        return data[attribute]
    if isinstance(data.get("instances"), list):
        return [_label_of(one, None) for one in data["instances"]]
    if "label" in data:
        return data["label"]
    if len(data) == 1:
        return next(iter(data.values()))
    raise ValueError("is one of several members; name it (attribute)")


def list_files(objects: Objects, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the files of a prefix that are not empty, in order of their keys."""
    after = ""
    while page := objects.list(bucket, prefix, after, PAGE):
        yield from (info for info in page if info.size_bytes)
        after = page[-1].key

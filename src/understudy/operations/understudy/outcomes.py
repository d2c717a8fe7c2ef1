"""Labels and outcomes of requests: reported in batches, or read from an S3 prefix of ground truth.

Owns the checks of what is reported.  A batch is kept whole or refused whole; sending it again changes nothing
but the count of duplicates.  Main function: :func:`post_outcomes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from understudy.core.errors import ValidationException
from understudy.core.ground_truth import GroundTruth
from understudy.core.outcomes import LABEL, LONGEST_ID, LONGEST_NAME, Outcome, plain_value
from understudy.core.ports import Delete, Put
from understudy.operations.s3.guard import check_bucket_name
from understudy.operations.sagemaker.wording import until_agreed
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of

MOST_AT_ONCE = 10_000
EARLIEST_S, LATEST_S = 0.0, 253_402_300_799.0
_IDS = ("inference_id", "event_id", "unit")
_MEMBERS = frozenset({*_IDS, "label", "value", "metric", "at"})


def post_outcomes(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Keep a batch of outcomes.

    Raises:
        ValidationException: one of them is wrong; none is kept.
    """
    endpoint = endpoint_of(services, request)
    given = request.body.get("outcomes")
    if not isinstance(given, list) or not given:
        raise ValidationException("outcomes must be a list with at least one outcome.")
    if len(given) > MOST_AT_ONCE:
        raise ValidationException(f"outcomes must not have more than {MOST_AT_ONCE} members.")
    now_s = services.clock.now_s()
    outcomes = [_outcome(one, at, now_s) for at, one in enumerate(given)]
    added = services.outcomes.add(endpoint.name, outcomes, now_s)
    return {
        "accepted": added.accepted,
        "duplicates": added.duplicates,
        "conflicting": added.conflicting,
        "conflicts": [
            {"id": id_, "metric": name, "stands": stands, "reported": reported}
            for id_, name, stands, reported in added.conflicts
        ],
    }


def _outcome(given: Any, at: int, now_s: float) -> Outcome:
    where = f"outcomes[{at}]"
    if not isinstance(given, Mapping):
        raise ValidationException(f"{where} must be an object.")
    for name in given:
        if name not in _MEMBERS:
            known = ", ".join(sorted(_MEMBERS))
            raise ValidationException(f"{where} has an unknown member {name[:100]!r}; there are: {known}.")
    ids = [name for name in _IDS if given.get(name) is not None]
    if len(ids) != 1:
        raise ValidationException(f"{where} must have one of {', '.join(_IDS)}.")
    id_ = given[ids[0]]
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if not isinstance(id_, str) or not 1 <= len(id_) <= LONGEST_ID:
        raise ValidationException(f"{where}.{ids[0]} must be a text of 1 to {LONGEST_ID} characters.")
    name, value = _named_value(given, where)
    at_s = now_s if given.get("at") is None else _time(given["at"], where)
    return Outcome(id_, name, value, at_s, subject="unit" if ids[0] == "unit" else "id")


def _named_value(given: Mapping[str, Any], where: str) -> tuple[str, Any]:
    has_label, has_value = given.get("label") is not None, given.get("value") is not None
    if has_label == has_value:
        raise ValidationException(f"{where} must have a label, or a metric and its value.")
    try:
        value = plain_value(given["label"] if has_label else given["value"])
    except ValueError as error:
        raise ValidationException(f"{where}.{'label' if has_label else 'value'} {error}.") from None
    metric = given.get("metric")
    if has_label:
        if metric is not None:
            raise ValidationException(f"{where}: a label has no metric.")
        return LABEL, value
    if not isinstance(metric, str) or not 1 <= len(metric) <= LONGEST_NAME or metric == LABEL:
        raise ValidationException(
            f"{where}.metric must be a text of 1 to {LONGEST_NAME} characters, and not {LABEL!r}."
        )
    if not isinstance(value, float):
        raise ValidationException(f"{where}.value must be a number; texts are labels.")
    return metric, value


def _time(given: Any, where: str) -> float:
    at_s = math.nan
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        at_s = float(given) if abs(given) <= LATEST_S else math.nan
    elif isinstance(given, str):
        try:
            at = datetime.fromisoformat(given)
            at_s = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            at_s = math.nan
    if not EARLIEST_S <= at_s <= LATEST_S:
        raise ValidationException(f"{where}.at must be Unix seconds or an ISO 8601 time.")
    return at_s


def get_outcomes(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Count what was reported, and tell how far ground truth has been read."""
    endpoint = endpoint_of(services, request)
    truth = services.records.get(GroundTruth, endpoint.name)
    return {
        "endpoint": endpoint.name,
        "outcomes": [
            {
                "metric": tally.name,
                "subject": tally.subject,
                "kept": tally.kept,
                "duplicates": tally.duplicates,
                "conflicting": tally.conflicting,
                "newest_at": tally.newest_at_s,
            }
            for tally in services.outcomes.tallies(endpoint.name)
        ],
        "ground_truth": None if truth is None else _told(truth.value),
    }


def _told(truth: GroundTruth) -> dict[str, Any]:
    return {
        "s3_uri": truth.s3_uri,
        "attribute": truth.attribute,
        "files": truth.files,
        "lines": truth.lines,
        "bad_lines": truth.bad_lines,
        "problems": list(truth.problems),
    }


def put_ground_truth(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Read labels from an S3 prefix from now on, all its files first.

    Raises:
        ValidationException: no S3 URI, or no such bucket.
    """
    endpoint = endpoint_of(services, request)
    uri, attribute = request.body.get("s3_uri"), request.body.get("attribute")
    if not isinstance(uri, str) or not re.fullmatch(r"s3://[^/]+(/.*)?", uri) or len(uri) > 1024:
        raise ValidationException("s3_uri must be s3://BUCKET/PREFIX.")
    if attribute is not None and (not isinstance(attribute, str) or not 1 <= len(attribute) <= 256):
        raise ValidationException("attribute must be a text of 1 to 256 characters.")
    bucket = uri.removeprefix("s3://").partition("/")[0]
    check_bucket_name(bucket)
    services.objects.list(bucket, limit=1)  # a bucket that is not there is refused now

    def attempt() -> dict[str, Any]:
        before = services.records.get(GroundTruth, endpoint.name)
        if before is not None and (before.value.s3_uri, before.value.attribute) == (uri, attribute):
            return _told(before.value)
        now_s = services.clock.now_s()
        truth = GroundTruth(endpoint.name, uri, now_s, now_s, attribute)
        services.records.commit([Put(truth, 0 if before is None else before.version)])
        return _told(truth)

    told = until_agreed(attempt)
    services.nudge()
    return told


def delete_ground_truth(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Stop reading labels; those that were read stay."""
    endpoint = endpoint_of(services, request)

    def attempt() -> dict[str, Any]:
        before = services.records.get(GroundTruth, endpoint.name)
        if before is not None:
            services.records.commit([Delete(GroundTruth, endpoint.name, before.version)])
        return {}

    return until_agreed(attempt)


OWN_CALLS = (
    OwnCall("POST", "/endpoints/{endpoint}/outcomes", post_outcomes, body=frozenset({"outcomes"})),
    OwnCall("GET", "/endpoints/{endpoint}/outcomes", get_outcomes),
    OwnCall(
        "PUT",
        "/endpoints/{endpoint}/ground-truth",
        put_ground_truth,
        body=frozenset({"s3_uri", "attribute"}),
    ),
    OwnCall("DELETE", "/endpoints/{endpoint}/ground-truth", delete_ground_truth),
)

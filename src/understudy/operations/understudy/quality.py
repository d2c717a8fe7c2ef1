"""How right each variant of an endpoint is: captured answers joined with their labels.

Main function: :func:`get_quality`.  Refuses an endpoint that captures no answers, saying what to do.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from understudy.analysis.quality_report import KINDS, Question
from understudy.capture.growing import bucket_and_prefix
from understudy.capture.labelled import gather_quality
from understudy.capture.reader import ObjectSource, read_window
from understudy.core.endpoints import Endpoint, Fleet
from understudy.core.errors import ValidationException
from understudy.core.outcomes import Scalar, plain_value
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnCall, OwnRequest, endpoint_of, number_of

WINDOW_S = 86_400.0
MOST_RECORDS = 200_000  # of one variant, read by one call
_LONGEST_FIELD = 256


def get_quality(services: Services, request: OwnRequest) -> dict[str, Any]:
    """Measure every variant on its labelled requests of a window.

    Raises:
        ValidationException: the endpoint captures no answers, or the question can't be asked.
    """
    endpoint = endpoint_of(services, request)
    question = _question(request)
    now_s = services.clock.now_s()
    window_s = number_of(request, "window_s", WINDOW_S)
    label_window_s = number_of(request, "label_window_s", 0.0)
    assert window_s is not None and label_window_s is not None
    if window_s <= 0.0 or label_window_s < 0.0:
        raise ValidationException("window_s must be above 0, label_window_s not below.")
    fleet = serving_fleet(endpoint)
    destination = capture_destination(fleet)
    wanted = request.query.get("variant")
    names = [variant.name for variant in fleet.variants]
    if wanted is not None and wanted not in names:
        raise ValidationException(
            f"Variant {wanted[:100]} not found for Endpoint {endpoint.name}; there are: {', '.join(names)}."
        )
    source = ObjectSource(services.objects, bucket_and_prefix(destination)[0])
    variants = []
    bad: list[str] = []
    for variant in fleet.variants:
        if wanted not in (None, variant.name):
            continue
        # Newest requests come last: of very many, the oldest are measured, which have had time for labels.
        records = read_window(
            source,
            destination,
            endpoint.name,
            variant.name,
            now_s - window_s,
            now_s + 1.0,
            on_bad=bad.append,
        )
        exposures, tally = gather_quality(
            islice(records, MOST_RECORDS),
            services.outcomes,
            endpoint.name,
            question,
            now_s - label_window_s if label_window_s else float("inf"),
        )
        variants.append(
            {
                "variant": variant.name,
                "shadow": variant.shadow,
                "config": fleet.config_name,
                "exposures": exposures.to_json(),
                "complete": exposures.total < MOST_RECORDS,
                **tally.report(),
            }
        )
    return {
        "endpoint": endpoint.name,
        "window_s": window_s,
        "label_window_s": label_window_s,
        "alpha": 0.05,
        "threshold": question.threshold if question.threshold is not None else 0.5,
        "by": question.by,
        "unreadable_lines": len(bad),
        "variants": variants,
    }


def _question(request: OwnRequest) -> Question:
    query = request.query
    kind = query.get("kind", "auto")
    if kind not in KINDS:
        raise ValidationException(f"kind must be one of {', '.join(KINDS)}.")
    for name in ("field", "by", "positive"):
        if not 1 <= len(query.get(name, "x")) <= _LONGEST_FIELD:
            raise ValidationException(f"{name} must have 1 to {_LONGEST_FIELD} characters.")
    positive: Scalar | None = None
    if "positive" in query:
        try:
            value = plain_value(query["positive"])
        except ValueError as error:
            raise ValidationException(f"positive {error}.") from None
        assert not isinstance(value, tuple)  # it came from one text
        positive = value
    return Question(kind, number_of(request, "threshold"), positive, query.get("field"), query.get("by"))


def serving_fleet(endpoint: Endpoint) -> Fleet:
    """Return the fleet that answers.

    Raises:
        ValidationException: none does yet.
    """
    if endpoint.fleet is None:
        raise ValidationException(
            f'Endpoint "{endpoint.name}" serves nothing yet: wait until it is InService.'
        )
    return endpoint.fleet


def capture_destination(fleet: Fleet) -> str:
    """Return where a fleet's answers are captured.

    Raises:
        ValidationException: nowhere.
    """
    if fleet.capture is None or not fleet.capture.outputs:
        raise ValidationException(
            f"Endpoint configuration {fleet.config_name} captures no answers: give it a DataCaptureConfig "
            "with Output among its CaptureOptions."
        )
    return fleet.capture.destination


OWN_CALLS = (
    OwnCall(
        "GET",
        "/endpoints/{endpoint}/quality",
        get_quality,
        query=frozenset(
            {"window_s", "label_window_s", "kind", "threshold", "positive", "field", "by", "variant"}
        ),
    ),
)

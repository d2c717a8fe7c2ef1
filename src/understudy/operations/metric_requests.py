"""What CloudWatch's operations share: their errors, and how a request names a metric and a time.

Refuses periods CloudWatch has not.  Error codes are those of the query protocol, which SDKs show; the AWS
face finds the modelled shape (``InvalidParameterValueException``) by them.

Source: CloudWatch API Reference, Common Errors; botocore's ``cloudwatch`` model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from understudy.core.errors import ApiError
from understudy.core.metrics import SeriesKey, dimensions_of


def invalid_value(message: str) -> ApiError:
    """Make the error of a parameter with a bad value."""
    return ApiError(message, code="InvalidParameterValue", status=400)


def invalid_combination(message: str) -> ApiError:
    """Make the error of parameters that don't go together."""
    return ApiError(message, code="InvalidParameterCombination", status=400)


def missing(message: str) -> ApiError:
    """Make the error of a parameter that must be there."""
    return ApiError(message, code="MissingParameter", status=400)


def validation_error(message: str) -> ApiError:
    """Make GetMetricData's error."""
    return ApiError(message, code="ValidationError", status=400)


def seconds_of(time: datetime | float) -> float:
    """Return Unix seconds of a wire timestamp."""
    return time.timestamp() if isinstance(time, datetime) else float(time)


def key_of(metric: Mapping[str, Any]) -> SeriesKey:
    """Return the identity of the metric that a structure with Namespace, MetricName, Dimensions names."""
    dimensions = {each["Name"]: each["Value"] for each in metric.get("Dimensions") or []}
    return SeriesKey(metric["Namespace"], metric["MetricName"], dimensions_of(dimensions))


def check_period(period_s: int, error: Callable[[str], ApiError]) -> None:
    """Refuse what is no period of CloudWatch."""
    if period_s not in (1, 5, 10, 20, 30) and (period_s <= 0 or period_s % 60 != 0):
        raise error(
            f"The value {period_s} for parameter Period is invalid. "
            "It must be 1, 5, 10, 20, 30 or a multiple of 60 seconds."
        )


def aligned_range(start_s: float, end_s: float, period_s: int) -> tuple[int, int]:
    """Round the start down to the period and the end up to a whole second."""
    whole_s = math.floor(start_s)
    return whole_s - whole_s % period_s, math.ceil(end_s)

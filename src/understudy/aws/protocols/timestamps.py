"""Timestamps on the wire: epoch numbers, ISO 8601 and HTTP dates.

Main functions: :func:`parse_timestamp`, :func:`render_timestamp`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS_S = (-62_135_596_800, 253_402_300_799)  # the first second of year 1, the last one of year 9999


def parse_timestamp(value: object) -> datetime:
    """Read a timestamp in any of AWS's three forms.

    Raises:
        ValueError: it is none of them, or outside years 1 to 9999.

    >>> parse_timestamp(0.5).isoformat(), parse_timestamp("1970-01-01T00:00:01Z").isoformat()
    ('1970-01-01T00:00:00.500000+00:00', '1970-01-01T00:00:01+00:00')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _of_epoch(float(value))
    if not isinstance(value, str) or not value or len(value) > 64:
        raise ValueError("not a timestamp")
    try:
        return _of_epoch(float(value))
    except ValueError:
        pass  # not a number: one of the text forms
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        try:
            parsed = parsedate_to_datetime(value)
        except (TypeError, IndexError) as error:
            raise ValueError("not a timestamp") from error
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _of_epoch(seconds: float) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError("timestamp out of range") from error


def render_timestamp(value: datetime | float, form: str) -> str | float:
    """Write a timestamp.

    Args:
        value: Aware datetime (a naive one is taken for UTC) or epoch seconds.
        form: ``unixtimestamp`` (a float with milliseconds), ``iso8601`` or ``rfc822``.

    >>> render_timestamp(0.25, "iso8601"), render_timestamp(0, "rfc822")
    ('1970-01-01T00:00:00.250Z', 'Thu, 01 Jan 1970 00:00:00 GMT')
    """
    form = form.lower()
    if form == "unixtimestamp" and isinstance(value, float) and _YEARS_S[0] <= value <= _YEARS_S[1]:
        return round(value, 3)
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    else:
        moment = _of_epoch(float(value))
    if form == "unixtimestamp":
        return round((moment - _EPOCH).total_seconds(), 3)
    if form == "rfc822":
        return format_datetime(moment.replace(microsecond=0), usegmt=True)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"

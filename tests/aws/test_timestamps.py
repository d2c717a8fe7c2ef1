"""Epoch seconds are written as the dates that they are would be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.aws.protocols.timestamps import render_timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@settings(max_examples=500)
@given(st.integers(-62_135_596_800_000, 253_402_300_799_000))
def test_seconds_and_dates_are_written_alike(milliseconds: int) -> None:
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    for form in ("unixTimestamp", "unixtimestamp"):
        assert render_timestamp(milliseconds / 1000, form) == render_timestamp(moment, form), form


@pytest.mark.parametrize("seconds", [-62_135_596_801.0, 253_402_300_800.0, float("inf"), float("nan"), 1e300])
def test_what_is_no_date_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"timestamp|NaN"):
        render_timestamp(seconds, "unixTimestamp")

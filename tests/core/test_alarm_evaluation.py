"""The published tables of CloudWatch's guide, and a slow reference of its words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.alarm_evaluation import AlarmRule, Datapoint, Judgement, evaluate, fewest_samples_of
from understudy.core.alarm_wording import metric_reason, metric_reason_data, timestamp
from understudy.core.alarms import AlarmState

OK, ALARM, UNKNOWN = AlarmState.OK, AlarmState.ALARM, AlarmState.INSUFFICIENT_DATA
KEEP = None
PERIOD_S, END_S = 300, 300 * 100
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")


def rule(n: int, m: int, treat: str = "missing", comparison: str = "GreaterThanThreshold") -> AlarmRule:
    return AlarmRule(comparison, 1.0, PERIOD_S, n, m, treat_missing=treat)


def points(drawn: str) -> list[Datapoint]:
    """``0 - X``: good, missing, breaching; the newest is last."""
    signs = drawn.split()
    return [
        Datapoint(END_S - PERIOD_S * (len(signs) - at), 2.0 if sign == "X" else 0.0, 1.0)
        for at, sign in enumerate(signs)
        if sign != "-"
    ]


# "How alarm state is evaluated when data is missing": both tables, of the page as it is and as it was.
@pytest.mark.parametrize(
    ("m", "drawn", "expected"),
    [
        (3, "0 - X - X", (OK, OK, OK, OK)),
        (3, "0 - - - -", (OK, OK, OK, OK)),
        (3, "- - - - -", (UNKNOWN, KEEP, ALARM, OK)),
        (3, "0 X X - X", (ALARM, ALARM, ALARM, ALARM)),
        (3, "- - X - -", (ALARM, KEEP, ALARM, OK)),
        (3, "- - - - X", (UNKNOWN, KEEP, ALARM, OK)),
        (3, "X - - - -", (ALARM, KEEP, ALARM, OK)),
        (2, "0 - X - X", (ALARM, ALARM, ALARM, ALARM)),
        (2, "0 0 X 0 X", (ALARM, ALARM, ALARM, ALARM)),
        (2, "0 - X - -", (OK, OK, ALARM, OK)),
        (2, "- - - - 0", (OK, OK, ALARM, OK)),
        (2, "- - - X -", (ALARM, KEEP, ALARM, OK)),
    ],
)
def test_the_published_tables(m: int, drawn: str, expected: Sequence[AlarmState | None]) -> None:
    for treat, state in zip(TREATMENTS, expected, strict=True):
        assert evaluate(rule(3, m, treat), points(drawn), END_S).state is state, treat


@pytest.mark.parametrize("drawn", ["- - - - X", "- - - X -", "- - - X 0", "- - X - 0"])
def test_no_premature_alarm(drawn: str) -> None:
    """ "Avoiding premature transitions": a good datapoint may still come, or has come."""
    assert evaluate(rule(3, 3), points(drawn), END_S).state is not ALARM


def reference(m: int, n: int, treat: str, signs: Sequence[str]) -> AlarmState | None:
    """The guide's sentences, one by one, on signs of the whole evaluation range."""
    real = [sign for sign in signs if sign != "-"]
    if len(real) >= n:
        window = real[len(real) - n :]
        return ALARM if window.count("X") >= m else OK
    missing = n - len(real)
    if treat == "breaching":
        return ALARM if real.count("X") + missing >= m else OK
    if treat == "notBreaching":
        return ALARM if real.count("X") >= m else OK
    if real.count("X") >= m:
        return ALARM
    if "0" in real:
        return OK
    if treat == "ignore":
        return None
    for oldest, sign in enumerate(signs):
        if sign == "X":
            newer_ones_are_bad_or_missing = all(other in "X-" for other in signs[oldest:])
            return ALARM if len(signs) - oldest >= m and newer_ones_are_bad_or_missing else UNKNOWN
    return UNKNOWN


@given(st.data())
def test_the_reference_agrees(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    m = data.draw(st.integers(1, n))
    treat = data.draw(st.sampled_from(TREATMENTS))
    wanted = rule(n, m, treat)
    signs = data.draw(
        st.lists(st.sampled_from("0X-"), min_size=wanted.range_periods, max_size=wanted.range_periods)
    )
    found = data.draw(st.permutations(points(" ".join(signs))))
    # What lies outside the range changes nothing, in whatever order datapoints come.
    outside = [Datapoint(END_S, 9.0), Datapoint(END_S - PERIOD_S * (wanted.range_periods + 1), 9.0)]
    judged = evaluate(wanted, [*found, *outside], END_S)
    assert judged.state is reference(m, n, treat, signs)
    assert len(judged.evaluated) + judged.filled == n


@given(
    st.sampled_from(
        [
            ("GreaterThanThreshold", "LessThanOrEqualToThreshold"),
            ("GreaterThanOrEqualToThreshold", "LessThanThreshold"),
        ]
    ),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_opposite_operators_never_agree(pair: tuple[str, str], value: float, threshold: float) -> None:
    one, other = (AlarmRule(name, threshold, 60, 1, 1).is_breaching(value) for name in pair)
    assert one is not other


def test_zero_is_a_value() -> None:
    silent = AlarmRule("LessThanThreshold", 1.0, 60, 1, 1)
    assert evaluate(silent, [Datapoint(0, 0.0)], 60).state is ALARM


def test_few_samples_keep_the_state() -> None:
    cautious = AlarmRule("GreaterThanThreshold", 1.0, 60, 1, 1, fewest_samples=fewest_samples_of("p99"))
    assert evaluate(cautious, [Datapoint(0, 5.0, 999.0)], 60).state is None
    assert evaluate(cautious, [Datapoint(0, 5.0, 1000.0)], 60).state is ALARM


# --- words ---------------------------------------------------------------------------------------------


def words(wanted: AlarmRule, drawn: str) -> str:
    judged = evaluate(wanted, points(drawn), END_S)
    assert judged.state is not None
    return metric_reason(wanted, judged, judged.state)


def test_reasons_as_cloudwatch_words_them() -> None:
    assert words(rule(1, 1), "X") == (
        "Threshold Crossed: 1 datapoint [2.0 (01/01/70 08:15:00)] was greater than the threshold (1.0)."
    )
    assert words(rule(2, 2), "0 0") == (
        "Threshold Crossed: 2 datapoints [0.0 (01/01/70 08:15:00), 0.0 (01/01/70 08:10:00)] were not greater "
        "than the threshold (1.0)."
    )
    assert words(rule(2, 2), "-") == "Insufficient Data: 2 datapoints were unknown."
    assert words(rule(1, 1), "-") == "Insufficient Data: 1 datapoint was unknown."
    assert words(rule(2, 2, "breaching"), "-") == (
        "Threshold Crossed: no datapoints were received for 2 periods and 2 missing datapoints were treated "
        "as [Breaching]."
    )
    assert words(rule(3, 2, "notBreaching"), "X") == (
        "Threshold Crossed: 1 datapoint was received for 3 periods and 2 missing datapoints were treated as "
        "[NonBreaching]."
    )


def test_reasons_of_m_out_of_n_tell_the_minimum() -> None:
    wanted = AlarmRule("LessThanThreshold", 1.0, PERIOD_S, 3, 2, m_was_given=True)
    judged = evaluate(wanted, points("0 X 0"), END_S)
    assert judged.state is ALARM
    assert metric_reason(wanted, judged, ALARM) == (
        "Threshold Crossed: 2 out of the last 3 datapoints [0.0 (01/01/70 08:15:00), "
        "0.0 (01/01/70 08:05:00)] were less than the threshold (1.0) "
        "(minimum 2 datapoints for OK -> ALARM transition)."
    )
    assert metric_reason(wanted, Judgement(OK, judged.evaluated), OK).endswith(
        "(minimum 2 datapoints for ALARM -> OK transition)."
    )


def test_long_reasons_stay_short() -> None:
    assert len(words(rule(500, 500), " ".join(["X"] * 500))) < 1023


def test_reason_data() -> None:
    judged = evaluate(rule(2, 2), points("0 X"), END_S)
    told = metric_reason_data(rule(2, 2), judged, {"Statistic": "Sum", "Unit": "Count"}, 1.5)
    assert told["queryDate"] == timestamp(1.5) == "1970-01-01T00:00:01.500+0000"
    assert told["recentDatapoints"] == [0.0, 2.0]
    assert told["evaluatedDatapoints"][0] == {
        "timestamp": timestamp(END_S - PERIOD_S),
        "sampleCount": 1.0,
        "value": 2.0,
    }
    assert (told["statistic"], told["unit"], told["period"], told["threshold"]) == ("Sum", "Count", 300, 1.0)

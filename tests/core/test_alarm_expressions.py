"""The grammar of composite alarms against Python's own, circles, suppression."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.alarm_expressions import RuleError, children_of, is_true, leads_back, parse_rule
from understudy.core.alarm_suppression import SuppressionSnapshot, suppression
from understudy.core.alarms import AlarmState

ARN = "arn:aws:cloudwatch:us-east-1:123456789012:alarm:"
NAMES = ["a", "b c", 'd"e', "f)g", "AND", "TRUE"]
STATES = list(AlarmState)

rules = st.recursive(
    st.one_of(
        st.sampled_from(["TRUE", "FALSE", "true", "false"]),
        st.tuples(st.sampled_from(STATES), st.sampled_from(NAMES)),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        st.tuples(st.just("()"), inner),
    ),
    max_leaves=12,
)


def written(tree: object) -> str:
    """Write a rule as AWS reads it; every pair of operands in parentheses."""
    if isinstance(tree, str):
        return tree
    assert isinstance(tree, tuple)
    if isinstance(tree[0], AlarmState):
        escaped = tree[1].replace("\\", "\\\\").replace('"', '\\"')
        return f'{tree[0]}("{escaped}")'
    if tree[0] == "not":
        return f"NOT ({written(tree[1])})"
    if tree[0] == "()":
        return f"( {written(tree[1])} )"
    return f"({written(tree[1])}) {tree[0].upper()} ({written(tree[2])})"


def value(tree: object, states: dict[str, AlarmState]) -> bool:
    if isinstance(tree, str):
        return tree.upper() == "TRUE"
    assert isinstance(tree, tuple)
    if isinstance(tree[0], AlarmState):
        return states.get(tree[1]) is tree[0]
    if tree[0] == "not":
        return not value(tree[1], states)
    if tree[0] == "()":
        return value(tree[1], states)
    one, other = value(tree[1], states), value(tree[2], states)
    return (one and other) if tree[0] == "and" else (one or other)


@given(rules, st.dictionaries(st.sampled_from(NAMES), st.sampled_from(STATES)))
def test_rules_mean_what_they_say(tree: object, states: dict[str, AlarmState]) -> None:
    assert is_true(parse_rule(written(tree)), states) is value(tree, states)


def test_precedence_and_plain_names() -> None:
    rule = parse_rule("ALARM(a) OR ALARM(b) AND NOT ALARM(c)")
    alarm, ok = AlarmState.ALARM, AlarmState.OK
    assert is_true(rule, {"a": alarm, "b": ok, "c": alarm})
    assert not is_true(rule, {"a": ok, "b": alarm, "c": alarm})
    assert is_true(rule, {"a": ok, "b": alarm, "c": ok})


def test_arns_name_alarms() -> None:
    assert children_of(parse_rule(f'ALARM("{ARN}x:y") OR OK({ARN}z) OR OK("x:y")')) == ["x:y", "z"]


@pytest.mark.parametrize(
    "text",
    [
        "ALARM",
        "ALARM()",
        "ALARM(a",
        'ALARM("a)',
        "ALARM(a) ALARM(b)",
        "ALARM(a) AND",
        "NOT",
        "(TRUE",
        "TRUE)",
        "BROKEN(a)",
        "",
        "   ",
        "ALARM(a) XOR ALARM(b)",
        "(" * 200 + "TRUE" + ")" * 200,
        " OR ".join(f"ALARM(a{n})" for n in range(101)),
        " OR ".join(["TRUE"] * 501),
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(RuleError):
        parse_rule(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        is_true(parse_rule(text), {})
    except RuleError:
        return


def test_circles() -> None:
    assert leads_back("a", {"a": ["a"]})
    assert leads_back("c", {"a": ["b"], "b": ["c"], "c": ["d", "a"]})
    assert not leads_back("a", {"a": ["b", "c"], "b": ["c"], "x": ["x"]})


def held(by: str | None, suppressor: AlarmState | None, at_s: float, *, moved: bool = False) -> str | None:
    return suppression(SuppressionSnapshot(at_s, moved, by, 100.0, suppressor, 20.0, 30.0))


def test_suppression() -> None:
    ok, alarm = AlarmState.OK, AlarmState.ALARM
    assert held(None, ok, 100.0) is None  # nothing waits
    assert held(None, alarm, 100.0, moved=True) == "Alarm"
    assert held(None, ok, 100.0, moved=True) == "WaitPeriod"
    assert held("WaitPeriod", ok, 119.0) == "WaitPeriod"
    assert held("WaitPeriod", alarm, 119.0) == "Alarm"
    assert held("WaitPeriod", ok, 120.0) is None
    assert held("Alarm", alarm, 9999.0) == "Alarm"
    assert held("Alarm", ok, 9999.0) == "ExtensionPeriod"
    assert held("ExtensionPeriod", ok, 129.0) == "ExtensionPeriod"
    assert held("ExtensionPeriod", ok, 130.0) is None
    assert held("ExtensionPeriod", None, 130.0) is None  # the suppressor is gone

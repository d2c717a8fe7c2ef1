"""Sticky assignment: exact shares, least movement, the same everywhere; and what a unit is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.assignment import (
    attribute_of,
    choose_for_unit,
    is_sticky_value,
    logged_requests,
    unit_of,
)

Weights = list[tuple[str, str, float]]
UNITS = [f"user-{number}" for number in range(20_000)]


def mapped(weights: Weights, endpoint: str = "e") -> dict[str, tuple[str, str] | None]:
    return {unit: choose_for_unit(endpoint, unit, weights) for unit in UNITS}


@pytest.mark.parametrize(
    "weights",
    [
        {"A": 1.0, "B": 1.0},
        {"A": 9.0, "B": 1.0},
        {"A": 0.2, "B": 0.3, "C": 0.5},
        {"A": 1e9, "B": 1e9 / 3, "C": 1.0, "none": 0.0},
    ],
)
def test_each_variant_has_its_share_of_the_units(weights: dict[str, float]) -> None:
    seen = Counter(mapped([(name, "f1", weight) for name, weight in weights.items()]).values())
    total = sum(weights.values())
    for name, weight in weights.items():
        share = weight / total
        deviation = sqrt(len(UNITS) * share * (1.0 - share))
        assert abs(seen[name, "f1"] - len(UNITS) * share) <= 5.0 * deviation + 1e-9, name
    assert seen["none", "f1"] == 0


def test_a_change_of_one_weight_moves_units_to_or_from_that_variant_only() -> None:
    before = mapped([("A", "f1", 5.0), ("B", "f1", 3.0), ("C", "f1", 2.0)])
    after = mapped([("A", "f1", 5.0), ("B", "f1", 3.0), ("C", "f1", 4.0)])
    moved = [unit for unit in UNITS if before[unit] != after[unit]]
    assert {after[unit] for unit in moved} == {("C", "f1")}
    # As many as C's share grows by, from 0.2 to 1/3, and no more.
    assert len(moved) == Counter(after.values())["C", "f1"] - Counter(before.values())["C", "f1"]
    assert mapped([("A", "f1", 10.0), ("B", "f1", 6.0), ("C", "f1", 4.0)]) == before  # the same shares


def test_a_ramp_never_moves_anybody_back() -> None:
    held: set[str] = set()
    for percent in (0.0, 1.0, 5.0, 10.0, 50.0, 90.0, 100.0):
        weights = [("control", "f1", 100.0 - percent), ("treatment", "f1", percent)]
        treated = {unit for unit, arm in mapped(weights).items() if arm == ("treatment", "f1")}
        assert held <= treated
        held = treated
    assert len(held) == len(UNITS)


def test_an_update_keeps_units_with_their_variant_and_moves_them_to_the_new_fleet_once() -> None:
    blue = mapped([("A", "f1", 1.0), ("B", "f1", 3.0)])
    gone: set[str] = set()
    for share in (0.1, 0.5, 1.0):
        weights = [
            (name, fleet, weight * part)
            for fleet, part in (("f1", 1.0 - share), ("f2", share))
            for name, weight in (("A", 0.25), ("B", 0.75))
        ]
        shifted = mapped(weights)
        assert {unit: arm[0] for unit, arm in shifted.items() if arm} == {
            unit: arm[0] for unit, arm in blue.items() if arm
        }
        green = {unit for unit, arm in shifted.items() if arm is not None and arm[1] == "f2"}
        assert gone <= green
        assert abs(len(green) - share * len(UNITS)) < 5.0 * sqrt(len(UNITS) * 0.25)
        gone = green


def test_endpoints_spread_units_independently() -> None:
    weights = [("A", "f1", 1.0), ("B", "f1", 1.0)]
    here, there = mapped(weights, "one"), mapped(weights, "two")
    agreeing = sum(here[unit] == there[unit] for unit in UNITS)
    assert abs(agreeing - len(UNITS) / 2) < 5.0 * sqrt(len(UNITS) / 4)


def test_the_order_of_variants_means_nothing() -> None:
    weights = [("A", "f1", 1.0), ("B", "f1", 2.0), ("B", "f2", 1.0)]
    assert mapped(weights[::-1]) == mapped(weights)


def test_nobody_answers_where_no_weight_is_positive() -> None:
    assert choose_for_unit("e", "u", []) is None
    assert choose_for_unit("e", "u", [("A", "f1", 0.0)]) is None


def test_another_process_and_the_next_version_map_alike() -> None:
    weights = [("A", "f1", 1.0), ("B", "f1", 1.0), ("C", "f2", 0.5)]
    script = (
        "from understudy.core.assignment import choose_for_unit\n"
        f"print(''.join(choose_for_unit('e', f'u{{n}}', {weights!r})[0] for n in range(40)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Written down: a change of the mapping would move users of experiments that are under way.
    assert other == "".join(str(choose_for_unit("e", f"u{n}", weights)[0]) for n in range(40))  # type: ignore[index]
    assert other == "ABBAABCBCBBABAACCCBBCACBACCBBAAACCBCBACC"


@given(
    unit=st.text(min_size=1, max_size=40),
    weights=st.lists(
        st.tuples(
            st.sampled_from("ABCD"),
            st.sampled_from(["f1", "f2"]),
            st.floats(0.0, 1e12, allow_subnormal=False),
        ),
        max_size=6,
        unique_by=lambda one: one[:2],
    ),
)
def test_whoever_answers_has_a_weight(unit: str, weights: Weights) -> None:
    arm = choose_for_unit("e", unit, weights)
    positive = {one[:2] for one in weights if one[2] > 0.0}
    assert arm in positive if positive else arm is None


@pytest.mark.parametrize(
    ("attributes", "unit"),
    [
        ("user=ann", "ann"),
        (" user = ann ; trace=1", "ann"),
        ("trace=1,user=ann,user=bob", "ann"),
        ("user=a=b", "a=b"),
        ('{"user": "ann", "x": [1]}', "ann"),
        ('{"user": 17}', "17"),
        ('{"user": null}', None),
        ('{"user": true}', None),
        ('{"user": ["ann"]}', None),
        ('{"user": ""}', None),
        ('{"user"', None),
        ("user=", None),
        ("user", None),
        ("superuser=ann", None),
        ("User=ann", None),
        ("", None),
        (None, None),
    ],
)
def test_units_in_custom_attributes(attributes: str | None, unit: str | None) -> None:
    assert unit_of("custom-attributes.user", "session-1", attributes) == unit


def test_units_by_session() -> None:
    assert unit_of("session-id", "s-1", "user=ann") == "s-1"
    assert unit_of("session-id", "NEW_SESSION", None) is None
    assert unit_of("session-id", "", None) is None
    assert unit_of("session-id", None, None) is None


@given(st.text(max_size=60), st.sampled_from(["user", "a.b", "x-1"]))
def test_no_text_of_attributes_is_too_odd(text: str, name: str) -> None:
    found = attribute_of(text, name)
    assert found is None or (found and found == found.strip())


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("session-id", True),
        ("custom-attributes.user_id", True),
        ("custom-attributes.a.b-c", True),
        ("Session-Id", False),
        ("custom-attributes", False),
        ("custom-attributes.", False),
        ("custom-attributes.a b", False),
        ("custom-attributes.ü", False),
        ("custom-attributes." + "x" * 65, False),
        ("", False),
    ],
)
def test_values_of_the_tag(value: str, allowed: bool) -> None:
    assert is_sticky_value(value) is allowed


def test_which_requests_are_logged() -> None:
    assert logged_requests({}) == "identified"
    assert logged_requests({"sticky": "session-id"}) == "all"
    assert logged_requests({"sticky": "session-id", "assignments": "off"}) == "off"
    assert logged_requests({"assignments": "all"}) == "all"

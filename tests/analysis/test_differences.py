"""Comparisons: counts, noise, examples, bounds."""

from __future__ import annotations

import json
import random
from typing import Any

from understudy.analysis.answers import Answer
from understudy.analysis.differences import (
    EXAMPLE_CHARACTERS,
    EXAMPLES_PER_FIELD,
    MAX_FIELDS,
    OTHER_FIELDS,
    Comparison,
    Request,
)
from understudy.analysis.fields import Tolerance


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json")


def _field(report: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in report["fields"] if row["field"] == name]
    return row


def test_a_report_counts_requests_fields_and_kinds() -> None:
    comparison = Comparison(Tolerance(threshold=0.5, threshold_field="$.score"))
    comparison.add(Request("e-1"), _json({"score": 0.4, "n": 1}), _json({"score": 0.6, "n": 1}))
    comparison.add(Request("e-2"), _json({"score": 0.4, "n": 1}), _json({"score": 0.4, "n": 3}))
    comparison.add(Request("e-3"), _json({"score": 0.1, "n": 1}), _json({"score": 0.3}))
    comparison.add(Request("e-4"), _json({"score": 0.1, "n": 1}), _json({"score": 0.1, "n": 1}))
    comparison.add_single("baseline")
    report = comparison.report()
    assert (report["pairs"], report["differing"], report["differing_above_noise"]) == (4, 3, 3)
    assert (report["agreement"], report["class_flips"]) == (0.25, 1)
    assert (report["only_baseline"], report["only_candidate"]) == (1, 0)
    assert report["noise"] == {"pairs": 0, "measured_by": None}
    score, count = _field(report, "$.score"), _field(report, "$.n")
    assert (score["compared"], score["differing"], score["kinds"]) == (4, 2, {"class": 1, "value": 1})
    assert abs(score["mean_gap"] - 0.2) < 1e-12
    assert (count["kinds"], count["max_gap"], count["above_noise"]) == ({"value": 1, "missing": 1}, 2.0, None)
    json.dumps(report)


def test_examples_are_the_worst_with_both_answers() -> None:
    comparison = Comparison()
    for number in range(100):
        request = Request(f"e-{number}", f"i-{number}", 5.0, Answer(b"1,2", "text/csv"))
        comparison.add(request, Answer(b"100", "text/csv"), Answer(str(100 + number).encode(), "text/csv"))
    examples = comparison.report(examples=2)["examples"]
    assert [one["event_id"] for one in examples] == ["e-99", "e-98"]
    assert examples[0] == {
        "event_id": "e-99",
        "inference_id": "i-99",
        "at_s": 5.0,
        "input": "1,2",
        "baseline_answer": "100",
        "candidate_answer": "199",
        "field": "$[*].column 1",
        "kind": "value",
        "baseline": 100.0,
        "candidate": 199.0,
        "distance": 99 / 199,
    }


def _noisy(dice: random.Random, regression: float) -> tuple[Answer, Answer, Answer]:
    """Production's answer, the candidate's, production's second one: 20 noisy fields, one that got worse."""

    def answer(worse: float) -> Answer:
        value: dict[str, Any] = {f"noisy{number}": int(dice.random() < 0.1) for number in range(20)}
        value["label"] = int(dice.random() < worse)
        return _json(value)

    return answer(0.0), answer(regression), answer(0.0)


def test_noise_is_not_named_and_a_regression_is_with_second_answers() -> None:
    dice = random.Random(11)
    comparison = Comparison()
    for number in range(1500):
        ours, theirs, again = _noisy(dice, 0.03)
        comparison.add(Request(f"e-{number}"), ours, theirs, again)
    report = comparison.report(top=100, examples=10)
    named = [row["field"] for row in report["fields"] if row["above_noise"]]
    assert named == ["$.label"]
    assert report["fields"][0]["field"] == "$.label"
    assert report["noise"] == {"pairs": 1500, "measured_by": "second answers"}
    assert report["differing_above_noise"] == _field(report, "$.label")["differing"] < report["differing"]
    assert {one["field"] for one in report["examples"]} == {"$.label"}


def test_noise_is_learned_from_repeated_requests() -> None:
    dice = random.Random(12)
    comparison = Comparison()
    for number in range(1500):
        ours, theirs, again = _noisy(dice, 0.05)
        comparison.add(Request(f"e-{number}"), ours, theirs)
        comparison.add_noise(ours, again)
    report = comparison.report(top=100)
    assert [row["field"] for row in report["fields"] if row["above_noise"]] == ["$.label"]
    assert report["noise"]["measured_by"] == "repeated requests"


def test_a_model_that_only_makes_noise_is_seldom_accused() -> None:
    accused = 0
    for seed in range(60):
        dice = random.Random(seed)
        comparison = Comparison()
        for number in range(200):
            comparison.add(Request(f"e-{number}"), *_noisy(dice, 0.0))
        accused += any(row["above_noise"] for row in comparison.report(top=100)["fields"])
    assert accused <= 9  # binomial(60, 0.05): above with p < 2e-3


def test_memory_is_bounded() -> None:
    comparison = Comparison()
    for number in range(MAX_FIELDS + 200):
        comparison.add(Request(f"e-{number}"), _json({f"k{number}": 0}), _json({f"k{number}": "x" * 5000}))
    report = comparison.report(top=10_000, examples=10_000)
    assert report["fields_compared"] == MAX_FIELDS + 1
    assert _field(report, OTHER_FIELDS)["differing"] == 200
    assert report["differing"] == MAX_FIELDS + 200
    assert len(report["examples"]) == MAX_FIELDS + EXAMPLES_PER_FIELD
    assert all(len(one["candidate_answer"]) <= EXAMPLE_CHARACTERS + 1 for one in report["examples"])
    assert all(len(one["candidate"]) <= EXAMPLE_CHARACTERS + 1 for one in report["examples"])


def test_an_empty_comparison_reports() -> None:
    report = Comparison().report()
    assert (report["pairs"], report["agreement"], report["fields"]) == (0, None, [])


def test_answers_nested_deeper_than_the_stack_are_compared() -> None:
    for depth in (300, 900, 5000, 100_000):
        plain, other = (
            Answer(b"[" * depth + inner + b"]" * depth, "application/json") for inner in (b"", b"1")
        )
        comparison = Comparison()
        comparison.add(Request("same"), plain, plain)
        comparison.add(Request("other"), plain, other)
        comparison.add(Request("flat"), _json([1]), plain)
        report = comparison.report()
        assert (report["pairs"], report["differing"]) == (3, 2)
        json.dumps(report)

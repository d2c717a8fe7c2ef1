"""Verdicts about shadows: pairs of captured answers, with labels and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from understudy.analysis.answers import Answer
from understudy.capture.records import CaptureRecord, render_line
from understudy.capture.shadow_pairs import PairCounts, ShadowStores, decisions_agree, judge_shadow
from understudy.core.endpoints import Fleet, FleetVariant
from understudy.core.metrics import router_data
from understudy.core.outcomes import Outcome
from understudy.core.policies import parse_policy, shadow_policy
from understudy.core.routing import CaptureRoute
from understudy.core.stages import Arm, Counts, Source
from understudy.core.verdicts import Verdict
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.memory_series import MemorySeries

AT_S = 1_700_000_000.0
Model = Callable[[int, random.Random], float]


class SetTime:
    def now_s(self) -> float:
        return AT_S

    def monotonic_s(self) -> float:
        return AT_S


def judged(
    control: Model,
    treatment: Model,
    requests: int,
    *,
    labelled: Callable[[float, float], bool] = lambda a, b: True,
    policy: dict[str, Any] | None = None,
    shadow_errors: int = 0,
) -> tuple[Verdict, PairCounts]:
    """Send requests to both; labels are coin flips that the models know with some probability."""
    dice = random.Random(3)
    objects, outcomes = MemoryObjects(SetTime()), MemoryOutcomes()
    log, series = MemoryEvidence(), MemorySeries()
    objects.create_bucket("kept")
    capture = CaptureRoute("s3://kept/c", 100.0, inputs=True, outputs=True)
    variants = (FleetVariant("prod", "m", ()), FleetVariant("shadow", "n", (), shadow=True))
    fleet = Fleet("f1", "c", variants, capture)
    stage = log.begin("e", (Arm("prod", "c", "f1", 1.0),), "", AT_S)
    lines: dict[str, list[bytes]] = {"prod": [], "shadow": []}
    for number in range(requests):
        label = int(dice.random() < 0.5)
        scores = [model(label, dice) for model in (control, treatment)]
        for name, score in zip(lines, scores, strict=True):
            if name == "shadow" and number < shadow_errors:
                continue
            record = CaptureRecord(
                destination="s3://kept/c",
                endpoint="e",
                variant=name,
                event_id=f"event-{number}",
                inference_id=None,
                custom_attributes="",
                at_s=AT_S + number / 100.0,
                input_type="text/csv",
                input_body=b"1",
                output_type="text/csv",
                output_body=f"{score}".encode(),
                csv_types=("text/csv",),
                json_types=(),
            )
            lines[name].append(render_line(record))
        if labelled(*scores):
            outcomes.add("e", [Outcome(f"event-{number}", "label", float(label), AT_S)], AT_S)
    hour = datetime.fromtimestamp(AT_S, UTC).strftime("%Y/%m/%d/%H")
    for name, some in lines.items():
        key = f"c/e/{name}/{hour}/00-00-000-x.jsonl"
        objects.put("kept", key, iter([b"\n".join(line.rstrip() for line in some)]))
    arm = ("prod", "c", "f1", Source.WEIGHT)
    log.record([Counts("e", stage.number, int(AT_S), *arm, requests)], source="r", sequence=1)
    item = {
        "endpoint": "e",
        "variant": "shadow",
        "config": "c",
        "at_s": int(AT_S),
        "invocations": requests,
        "errors_5xx": shadow_errors,
    }
    series.record(router_data([item]))
    stores = ShadowStores(objects, outcomes, log, log, series)
    rules = shadow_policy() if policy is None else parse_policy(policy)
    found, counts = judge_shadow(stores, "e", fleet, *variants, rules, AT_S + 600.0)
    return found.verdict(), counts


def knows(accuracy: float) -> Model:
    return lambda label, dice: 0.9 * label + 0.05 if dice.random() < accuracy else 0.95 - 0.9 * label


def same(label: int, _: random.Random) -> float:
    return 0.2 + 0.1 * label


def nearly_same(label: int, _: random.Random) -> float:
    return 0.21 + 0.1 * label


def test_agreement_alone_promotes_without_any_label() -> None:
    verdict, counts = judged(same, nearly_same, 8000, labelled=lambda a, b: False)
    assert (counts.pairs, counts.agreeing, counts.labelled) == (8000, 8000, 0)
    assert verdict.decision == "PROMOTE", verdict.reason
    verdict, _ = judged(same, nearly_same, 150, labelled=lambda a, b: False)
    assert verdict.decision == "HOLD" and "1.00%" in verdict.would_change["ship"]


def test_disagreement_without_labels_is_neither_harm_nor_gain() -> None:
    verdict, counts = judged(knows(0.95), knows(0.7), 2000, labelled=lambda a, b: False)
    assert verdict.decision == "HOLD"
    assert counts.unlabelled_disagreements == counts.pairs - counts.agreeing > 400
    assert "labels of the requests" in verdict.would_change["ship"]


def test_a_worse_shadow_is_found_by_labels_of_the_disagreements_alone() -> None:
    for labelled in (lambda a, b: True, lambda a, b: (a >= 0.5) != (b >= 0.5)):
        verdict, counts = judged(knows(0.95), knows(0.85), 2000, labelled=labelled)
        assert verdict.decision == "ROLLBACK", verdict.reason
        assert counts.only_control_right > counts.only_treatment_right > 0
    assert counts.labelled == counts.pairs - counts.agreeing < 500


def test_a_better_shadow_wins_an_experiment() -> None:
    policy = {
        "kind": "experiment",
        "label_window_s": 0,  # an experiment's default waits a day for labels
        "primary": {"metric": "shadow_agreement"},
        "guardrails": [{"metric": "error_rate", "acceptable_rate": 0.005}],
    }
    verdict, _ = judged(knows(0.85), knows(0.95), 2000, policy=policy)
    assert verdict.decision == "PROMOTE", verdict.reason
    verdict, _ = judged(knows(0.9), knows(0.9), 2000, policy=policy)
    assert verdict.decision in ("HOLD", "KEEP")


def test_failing_copies_are_not_forgotten_because_they_have_no_answer() -> None:
    verdict, counts = judged(same, nearly_same, 4000, labelled=lambda a, b: False, shadow_errors=200)
    assert counts.single == 200 and counts.pairs == 3800
    assert verdict.decision == "ROLLBACK" and "error" in verdict.reason


@pytest.mark.parametrize(
    ("one", "other", "kind", "agree"),
    [
        (b"0.49", b"0.51", "text/csv", False),
        (b"0.9\n0.1", b"0.8\n0.2", "text/csv", True),
        (
            b'{"predictions":[{"score":0.9,"predicted_label":1}]}',
            b'{"predictions":[{"score":0.4,"predicted_label":1}]}',
            "application/json",
            True,
        ),
        (b"cat", b"dog", "text/plain", False),
        (b"", b"0.3", "text/csv", False),
        (b'{"a":', b'{"a":1}', "application/json", False),
    ],
)
def test_what_agrees(one: bytes, other: bytes, kind: str, agree: bool) -> None:
    assert decisions_agree(Answer(one, kind), Answer(other, kind)) is agree


def test_numbers_are_held_against_their_label_by_distance() -> None:
    counts = PairCounts()
    counts.take(Answer(b"10", "text/csv"), Answer(b"12", "text/csv"), 11.8)
    counts.take(Answer(b"10", "text/csv"), Answer(b"12", "text/csv"), 10.5)
    counts.take(Answer(b"10", "text/csv"), Answer(b"12", "text/csv"), "red")
    assert (counts.only_treatment_right, counts.only_control_right, counts.labelled) == (1, 1, 2)
    assert counts.unlabelled_disagreements == 1

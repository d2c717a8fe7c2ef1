"""Verdicts about shadows: pairs of captured answers, with labels and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from understudy.analysis.answers import Answer
from understudy.analysis.verdicts import replay_verdict
from understudy.capture.records import CaptureRecord, render_line
from understudy.capture.shadow_pairs import PairCounts, ShadowStores, decisions_agree, judge_shadow
from understudy.control import shadow_verdicts
from understudy.control.shadow_verdicts import ShadowVerdicts
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant
from understudy.core.judgements import EndpointPolicy, ShadowJudgement, VerdictInputs
from understudy.core.metrics import SeriesKey, dimensions_of, router_data
from understudy.core.names import Place
from understudy.core.outcomes import Outcome
from understudy.core.policies import parse_policy, shadow_policy
from understudy.core.ports import Put, Query
from understudy.core.routing import CaptureRoute
from understudy.core.stages import Arm, Counts, Source
from understudy.core.verdicts import Verdict
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.memory_series import MemorySeries

AT_S = 1_700_000_000.0
Model = Callable[[int, random.Random], float]


class SetTime:
    def __init__(self) -> None:
        self.at_s = AT_S

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


def served(
    control: Model,
    treatment: Model,
    requests: int,
    *,
    labelled: Callable[[float, float], bool] = lambda a, b: True,
    shadow_errors: int = 0,
    truth: dict[str, float] | None = None,
) -> tuple[ShadowStores, Fleet]:
    """Send requests to both; labels are coin flips that the models know with some probability.

    Args:
        truth: Is given the label of each request by its event id.
    """
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
        if truth is not None:
            truth[f"event-{number}"] = float(label)
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
    return ShadowStores(objects, outcomes, log, log, series), fleet


def judged(
    control: Model,
    treatment: Model,
    requests: int,
    *,
    policy: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Verdict, PairCounts]:
    """Judge what both answered."""
    stores, fleet = served(control, treatment, requests, **options)
    rules = shadow_policy() if policy is None else parse_policy(policy)
    found, counts = judge_shadow(stores, "e", fleet, *fleet.variants, rules, AT_S + 600.0)
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


# --- the loop --------------------------------------------------------------------------------------------


class Watched:
    """An endpoint with a shadow, and the loop that judges it; each look is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stores: ShadowStores, fleet: Fleet) -> None:
        monkeypatch.setattr(shadow_verdicts, "AT_LEAST_EVERY_S", 0.0)
        monkeypatch.setattr(shadow_verdicts, "REST_FACTOR", 0.0)
        self.stores, self.records, self.clock = stores, MemoryRecords(), SetTime()
        self.clock.at_s += 600.0
        arn = Place().arn("endpoint", "e")
        endpoint = Endpoint("e", arn, "c", EndpointStatus.IN_SERVICE, 1.0, 1.0, fleet=fleet)
        self.records.commit([Put(endpoint, 0)])
        self.restart()

    def restart(self) -> None:
        """A controller that was killed comes back."""
        self.loop = ShadowVerdicts(self.records, self.stores, self.clock, Place())

    def look(self) -> ShadowJudgement:
        """Let the loop look once; return what it keeps."""
        self.clock.at_s += 2.0
        self.loop.tick()
        (stored,) = self.records.find(ShadowJudgement, Query())
        return stored.value

    def events(self) -> list[tuple[str, str]]:
        """Return what was told of decisions."""
        told = [one for one in self.records.events(None, 0, 100) if one.kind == "VerdictChanged"]
        return [(one.detail["from"], one.detail["to"]) for one in told]

    def metric(self, name: str) -> list[float]:
        """Read what was published, second by second."""
        named = {"EndpointName": "e", "VariantName": "shadow", "EndpointConfigName": "c"}
        key = SeriesKey("Understudy/Verdicts", name, dimensions_of(named))
        found = self.stores.series.read(key, int(AT_S), int(AT_S) + 1000, 1)
        return [one.summary.maximum for one in found]


def test_a_changed_decision_about_a_shadow_is_an_event_and_its_evidence_a_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth: dict[str, float] = {}
    served_both = served(knows(0.95), knows(0.85), 2000, labelled=lambda a, b: False, truth=truth)
    world = Watched(monkeypatch, *served_both)
    assert world.look().decision == "HOLD"
    assert world.metric("HarmEvidenceLog10")[-1] < 2.0
    labels = [Outcome(id_, "label", label, AT_S) for id_, label in truth.items()]
    world.stores.outcomes.add("e", labels, AT_S)
    kept = world.look()
    assert kept.decision == "ROLLBACK" and kept.decided_at is not None
    assert world.events() == [("HOLD", "ROLLBACK")]
    assert world.metric("HarmEvidenceLog10")[-1] >= 2.0
    (inputs,) = world.records.find(VerdictInputs, Query())
    again = replay_verdict(inputs.value.inputs)
    assert again.replay == inputs.value.name and str(again.decision) == "ROLLBACK"
    version = world.records.get(ShadowJudgement, kept.name).version
    world.restart()
    assert world.look() == kept
    assert world.events() == [("HOLD", "ROLLBACK")], "nothing changed"
    assert world.records.get(ShadowJudgement, kept.name).version == version
    assert len(world.metric("HarmEvidenceLog10")) == 3


def test_what_was_proven_of_a_shadow_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stores, fleet = served(same, nearly_same, 8000, labelled=lambda a, b: False)
    world = Watched(monkeypatch, stores, fleet)
    before = world.look()
    assert before.decision == "PROMOTE"
    stores.objects.delete("kept", *[one.key for one in stores.objects.list("kept")])
    after = world.look()

    def proven(kept: ShadowJudgement) -> list[float]:
        return [weight[1] for one in kept.evidence["metrics"] for weight in one["weights"]]

    assert proven(after) == proven(before)


def test_another_policy_begins_anew_and_a_shadow_that_went_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores, fleet = served(same, nearly_same, 8000, labelled=lambda a, b: False)
    world = Watched(monkeypatch, stores, fleet)
    assert world.look().decision == "PROMOTE"
    strict = {"guardrails": [{"metric": "shadow_agreement", "acceptable_rate": 0.0001}]}
    world.records.commit([Put(EndpointPolicy("e", parse_policy(strict).to_json(), 1.0, 1.0), 0)])
    assert world.look().decision == "HOLD"
    assert world.events() == [("HOLD", "PROMOTE")]
    stored = world.records.get(Endpoint, "e")
    alone = replace(fleet, variants=fleet.variants[:1])
    world.records.commit([Put(replace(stored.value, fleet=alone), stored.version)])
    world.loop.tick()
    assert world.records.find(ShadowJudgement, Query()) == []


def test_a_shadow_whose_answers_are_gone_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    stores, fleet = served(same, nearly_same, 200, labelled=lambda a, b: False)
    world = Watched(monkeypatch, stores, fleet)
    nowhere = replace(fleet, capture=replace(fleet.capture, destination="s3://nowhere/c"))
    arn = Place().arn("endpoint", "a")
    endpoint = Endpoint("a", arn, "c", EndpointStatus.IN_SERVICE, 1.0, 1.0, fleet=nowhere)
    world.records.commit([Put(endpoint, 0)])
    world.clock.at_s += 2.0
    world.loop.tick()
    assert [one.value.pair.endpoint for one in world.records.find(ShadowJudgement, Query())] == ["e"]

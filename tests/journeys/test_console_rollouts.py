"""Rollouts, alarms and A/B verdicts in a real browser: watched, called back, judged, promoted."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import read_server

pytest.importorskip("playwright.sync_api", reason="needs Playwright: run `make install`")

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

HERE = Path(__file__).parent


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


stage_module = load("console_stage")
visits = load("console_visit")
chromium, signed_in, visit = visits.chromium, visits.signed_in, visits.visit
Visitor, until, HOSTILE = visits.Visitor, visits.until, visits.HOSTILE

# Answers like the first model, but every third request fails.
BROKEN = stage_module.SCORING.replace(
    "    text = body",
    "    if time.time_ns() % 3 == 0:\n        raise RuntimeError('broken')\n    text = body",
    1,
)
EASY = {
    "name": "up to half may fail",
    "kind": "deploy",
    "minimum_requests": 20,
    "guardrails": [{"metric": "error_rate", "margin": 3.0, "acceptable_rate": 0.5}],
}


@pytest.fixture(scope="module")
def server_options() -> list[str]:
    return ["--time-scale", "20"]


@pytest.fixture(scope="module")
def stage(server: Any) -> Iterator[Any]:
    """An endpoint to roll, one with a broken variant and labels, one with two good variants; traffic."""
    made = stage_module.Stage(server)
    made.models()
    made.model("churn-broken", BROKEN.format(name="churn-broken", **stage_module.MODELS["churn-v1"]))
    made.endpoint("roll", {"AllTraffic": ("churn-v1", 1.0)})
    made.endpoint("ab", {"good": ("churn-v1", 1.0), "broken": ("churn-broken", 1.0)}, capture=True)
    made.endpoint("even", {"A": ("churn-v1", 1.0), "B": ("churn-v2", 1.0)})
    with ExitStack() as traffic:
        for name in ("roll", "ab", "even"):
            traffic.enter_context(made.traffic(name, per_s=25.0))
        yield made


def serves(stage: Any, name: str = "roll") -> str:
    return str(stage.sm.describe_endpoint(EndpointName=name)["EndpointConfigName"])


def fill_update(page: Any, name: str, model: str, way: str, size: int, bake_s: int) -> None:
    """Fill the wizard of an update to a new configuration."""
    page.get_by_label("Configuration", exact=True).select_option("")
    page.get_by_label("Name of the new configuration").fill(name)
    page.get_by_label("Model of AllTraffic").select_option(model)
    page.get_by_label("Way").select_option(way)
    if way != "ALL_AT_ONCE":
        page.locator("input[type=number]").first.fill(str(size))
    page.get_by_label("Each step bakes, s").fill(str(bake_s))


def test_a_canary_is_watched_and_called_back(visit: Any, stage: Any) -> None:
    page = visit.open("endpoints/roll")
    page.get_by_role("link", name="Update", exact=True).click()
    fill_update(page, "roll-back", "churn-v2", "CANARY", 20, 1200)
    will = page.get_by_role("region", name="What will happen")
    until(lambda: "20 %" in will.inner_text() and "bakes 20 min" in will.inner_text())
    shown = page.locator("aside .snippet pre").first.inner_text()
    assert "create_endpoint_config" in shown and '"CanarySize"' in shown and "update_endpoint" in shown
    page.get_by_role("button", name="Begin the update").click()
    page.wait_for_url("**/endpoints/roll")
    card = page.locator("#rollout")
    card.get_by_text("Baking").wait_for()
    current = card.locator("li[aria-current=step]")
    assert "20 %" in current.inner_text() and "under way" in current.inner_text()
    assert re.search(r"new roll-back 20 %.*old roll-config 80 %", card.locator(".fleets").inner_text(), re.S)
    card.get_by_text("left of 20 min").wait_for()
    card.locator("figure.chart").last.scroll_into_view_if_needed()
    until(lambda: card.locator("figure canvas").count() == 3)
    page.goto(f"{visit.server.url}/console/")
    row = page.get_by_role("listitem").filter(has_text="roll-config → roll-back")
    row.get_by_text("20 % · baking").wait_for()
    row.get_by_role("link", name="roll").click()
    page.locator("#rollout").get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("<b>too slow</b>")
    dialog.get_by_role("button", name="Shell").click()
    assert "understudy rollout rollback roll" in dialog.inner_text()
    dialog.get_by_role("button", name="Roll back now").click()
    page.get_by_role("heading", name="The last change failed").wait_for()
    until(lambda: "<b>too slow</b>" in page.locator("main").inner_text())
    page.get_by_role("cell", name="RollbackRequested").wait_for()
    stage.wait_for("roll")
    assert serves(stage) == "roll-config"


def test_what_the_rollback_dialog_shows_rolls_back(visit: Any, stage: Any) -> None:
    for number, (tab, run) in enumerate((("boto3", visits.run_boto3), ("Shell", visits.run_shell))):
        page = visit.open("endpoints/roll/update")
        fill_update(page, f"shown-{number}", "churn-v2", "LINEAR", 50, 1200)
        page.get_by_role("button", name="Begin the update").click()
        page.locator("#rollout").get_by_text("Baking").wait_for()
        page.locator("#rollout").get_by_role("button", name="Roll back").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill('it\'s "shown" $(id)')
        environment_of_shell = visits.snippet_of(dialog, tab)
        run(visit.server, with_data_dir(visit.server, environment_of_shell, tab))
        stage.wait_for("roll")
        told = stage.sm.describe_endpoint(EndpointName="roll")
        assert told["EndpointConfigName"] == "roll-config"
        assert 'it\'s "shown" $(id)' in told["FailureReason"]


def with_data_dir(server: Any, text: str, tab: str) -> str:
    """The command as on a machine with one server: which one is meant is told by the environment."""
    return f"export UNDERSTUDY_DATA_DIR={server.data_dir}\n{text}" if tab == "Shell" else text


def test_evidence_of_harm_takes_a_broken_version_back(visit: Any, stage: Any) -> None:
    page = visit.open("endpoints/roll/update")
    fill_update(page, "roll-broken", "churn-broken", "CANARY", 50, 3600)
    page.get_by_label("Evidence of harm").check()
    assert "HarmEvidenceLog10" in page.locator("aside .snippet pre").first.inner_text()
    page.get_by_role("button", name="Begin the update").click()
    card = page.locator("#rollout")
    card.get_by_role("link", name="roll-roll-broken-AllTraffic-harm").wait_for()
    page.get_by_role("heading", name="The last change failed").wait_for()
    until(lambda: "roll-roll-broken-AllTraffic-harm" in page.locator(".attention").first.inner_text())
    stage.wait_for("roll")
    assert serves(stage) == "roll-config"

    page = visit.open("alarms/roll-roll-broken-AllTraffic-harm?range=3h")
    page.locator("figure canvas").wait_for()
    page.locator("figure.chart").get_by_text("Numbers").click()
    until(lambda: page.locator("figure.chart tbody tr").count() >= 1)
    assert "Threshold" in page.locator("figure.chart thead").inner_text()
    history = page.get_by_role("region", name="History")
    history.get_by_text("to ALARM").first.wait_for()
    history.get_by_text("datapoints").first.wait_for()
    page.get_by_role("link", name="roll", exact=True).click()
    page.get_by_role("heading", name="roll", exact=True).wait_for()

    page = visit.open("ab/roll")
    page.locator(".decision", has_text="ROLLBACK").wait_for()
    assert "harm is proven" in page.locator("section.verdict").inner_text()


def test_a_good_version_goes_all_the_way(visit: Any, stage: Any) -> None:
    page = visit.open("endpoints/roll/update")
    fill_update(page, "roll-good", "churn-v2", "LINEAR", 50, 60)
    page.get_by_role("button", name="Begin the update").click()
    page.get_by_text("Configuration roll-good").wait_for()
    stage.wait_for("roll")
    assert serves(stage) == "roll-good"
    for kind in ("UpdateRequested", "TrafficShifting", "TrafficShifted"):
        page.get_by_role("cell", name=kind, exact=True).first.wait_for()


def test_the_linter_and_a_drill(visit: Any, stage: Any) -> None:
    cloudwatch = visit.server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="as-in-the-samples",
        AlarmDescription=HOSTILE[1],
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[
            {"Name": "EndpointName", "Value": "roll"},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )
    page = visit.open("endpoints/roll/update")
    page.get_by_label("as-in-the-samples").check()
    will = page.get_by_role("region", name="What will happen")
    will.get_by_text("never-fires").wait_for()
    fill_update(page, "roll-linted", "churn-v1", "ALL_AT_ONCE", 50, 0)
    page.get_by_role("button", name="Begin the update").click()
    page.get_by_text("Configuration roll-linted").wait_for()
    stage.wait_for("roll")

    page = visit.open("alarms?endpoint=roll")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="as-in-the-samples"))
    assert "Average of Invocation5XXErrors ≥ 1" in row.inner_text()
    until(lambda: row.locator("svg .threshold").count() == 1)
    finding = page.get_by_role("article", name="never-fires").first
    finding.get_by_text("Do:").wait_for()
    row.get_by_role("link", name="as-in-the-samples").click()
    page.get_by_text(HOSTILE[1], exact=True).wait_for()
    page.get_by_role("button", name="Drill").click()
    page.get_by_role("dialog").get_by_role("button", name="Set to ALARM").click()
    page.get_by_role("region", name="History").get_by_text("a drill").or_(
        page.get_by_role("region", name="History").get_by_text("to ALARM")
    ).first.wait_for()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete alarm").click()
    page.wait_for_url("**/console/alarms")
    assert not cloudwatch.describe_alarms(AlarmNames=["as-in-the-samples"])["MetricAlarms"]
    visits.unharmed(visit)


def test_a_broken_variant_is_found_measured_and_left(visit: Any, stage: Any) -> None:
    page = visit.open("ab")
    page.get_by_role("link", name="ab", exact=True).click()
    page.locator(".decision", has_text="ROLLBACK").wait_for()
    text = page.get_by_role("region", name="Verdict", exact=True).inner_text()
    assert "harm is proven" in text and "broken (ab-config) against good (ab-config)" in text
    evidence = page.get_by_role("region", name="Evidence", exact=True).last
    until(lambda: "proven" in evidence.inner_text())
    opinions = page.get_by_role("region", name="Second opinions")
    assert "worse" in opinions.inner_text()
    assert not re.search(r"\bp\s*[=<]|p-value", page.locator("main").inner_text())
    # The ribbon: its numbers are there as a table.
    chart = page.locator("figure.chart").filter(has_text="error_rate: ratio")
    chart.scroll_into_view_if_needed()
    chart.locator("canvas").wait_for()
    chart.get_by_text("Numbers").click()
    until(lambda: re.search(r"× \d", chart.locator("tbody").inner_text()))
    weighed = page.locator("figure.chart").filter(has_text="line of promotion")
    weighed.scroll_into_view_if_needed()
    weighed.get_by_text("Numbers").click()
    until(lambda: weighed.locator("tbody tr").count() >= 2)

    # Labels come: quality, ROC and confusion.
    labels = [{"inference_id": f"row-{number}", "label": number % 2} for number in range(400)]
    call_server(
        read_server(visit.server.data_dir),
        "POST",
        endpoint_path("ab", "outcomes"),
        body={"outcomes": labels},
    )
    quality = page.locator("#quality")
    quality.get_by_label("Where the prediction is").fill("scores")

    def measured() -> bool:
        quality.get_by_role("button", name="Measure again").click()
        quality.get_by_role("table").or_(quality.locator(".empty")).first.wait_for()
        return "accuracy" in quality.inner_text()

    until(measured)
    quality.locator("figure canvas").wait_for()
    assert quality.get_by_role("region", name="Confusion matrix of good").count() == 1

    page.get_by_role("button", name="Roll back to good").click()
    dialog = page.get_by_role("dialog")
    assert "update_endpoint_weights_and_capacities" in dialog.inner_text()
    dialog.get_by_role("button", name="Roll back to good").click()
    page.wait_for_url("**/endpoints/ab")
    stage.wait_for("ab")
    weights = {
        one["VariantName"]: one["CurrentWeight"]
        for one in stage.sm.describe_endpoint(EndpointName="ab")["ProductionVariants"]
    }
    assert weights == {"good": 2.0, "broken": 0.0}


def test_another_policy_is_asked_set_and_promotes(visit: Any, stage: Any) -> None:
    page = visit.open("ab/even")
    page.locator(".decision").first.wait_for()  # HOLD at first; traffic goes on and may have proven more
    policy = page.locator("#policy")
    policy.get_by_text("experiment/default", exact=True).wait_for()
    policy.get_by_text("Another policy").click()
    policy.get_by_label("Policy as JSON").fill("{")
    policy.get_by_text("This is no JSON yet.").wait_for()
    policy.get_by_label("Policy as JSON").fill(json.dumps({**EASY, "name": HOSTILE[0]}))
    policy.get_by_role("button", name="Ask what it would say").click()
    policy.get_by_text("Under this policy:").wait_for()
    shown = visits.snippet_of(policy, "boto3")
    visits.run_boto3(visit.server, shown)
    told = call_server(read_server(visit.server.data_dir), "GET", endpoint_path("even", "policy"))
    assert told["policy"]["name"] == HOSTILE[0]
    page.locator(".decision", has_text="PROMOTE").wait_for()
    page.get_by_role("button", name="Promote B").click()
    dialog = page.get_by_role("dialog")
    assert "not this" not in dialog.inner_text()
    dialog.get_by_role("button", name="Promote B").click()
    page.wait_for_url("**/endpoints/even")
    stage.wait_for("even")
    weights = [
        one["CurrentWeight"] for one in stage.sm.describe_endpoint(EndpointName="even")["ProductionVariants"]
    ]
    assert weights == [0.0, 2.0]
    visits.unharmed(visit)


# --- hostile words and readability -------------------------------------------------------------------


def test_hostile_alarms_findings_and_verdicts_are_text(visit: Any, stage: Any) -> None:
    """A server that lies: names, reasons, conditions and advice are hostile."""
    now = time.time()
    alarms = [
        {
            "AlarmName": text,
            "AlarmDescription": text,
            "StateValue": text if at % 2 else "ALARM",
            "StateReason": text,
            "StateTransitionedTimestamp": now,
            "Namespace": text,
            "MetricName": text,
            "Statistic": text,
            "Dimensions": [{"Name": "EndpointName", "Value": text}],
            "ComparisonOperator": text,
            "Threshold": 1.0,
            "EvaluationPeriods": 1,
            "Period": 60,
        }
        for at, text in enumerate(HOSTILE)
    ]
    page = visit.page
    page.route("**/cloudwatch/DescribeAlarms", lambda route: route.fulfill(json={"MetricAlarms": alarms}))
    page.route("**/cloudwatch/GetMetricData", lambda route: route.fulfill(json={"MetricDataResults": []}))
    page.route(
        "**/cloudwatch/DescribeAlarmHistory",
        lambda route: route.fulfill(
            json={
                "AlarmHistoryItems": [
                    {"Timestamp": now, "HistoryItemType": text, "HistorySummary": text, "HistoryData": text}
                    for text in HOSTILE
                ]
            }
        ),
    )
    advice = {
        "code": HOSTILE[0],
        "severity": HOSTILE[1],
        "alarm": HOSTILE[2],
        "what": HOSTILE[3],
        "why": HOSTILE[4],
        "suggestion": HOSTILE[5],
        "call": {"AlarmName": HOSTILE[6]},
    }
    report = {
        "endpoint": HOSTILE[7],
        "steps": [{"share": 1, "duration_s": 1}],
        "alarms": [
            {
                "name": HOSTILE[8],
                "state": HOSTILE[9],
                "findings": [advice],
                "false_alarm_probability": 0.1,
                "smallest_regression": 0.2,
                "regression_unit": "rate",
            }
        ],
    }
    told = call_server(read_server(visit.server.data_dir), "GET", endpoint_path("even", "verdict"))

    def answer(route: Any) -> None:
        """Each path its own lie; qualities are refused."""
        paths = parse_qs(urlsplit(route.request.url).query)["paths"][0].split("\n")
        refused = {"__type": HOSTILE[0], "message": HOSTILE[1]}
        kinds = {"guardrails": (200, report), "quality": (400, refused), "verdict": (200, told)}
        found = [kinds[path.partition("?")[0].rpartition("/")[2]] for path in paths]
        route.fulfill(json={"answers": [{"status": status, "told": one} for status, one in found]})

    page.route("**/console/api/answers*", answer)
    visit.open("alarms")
    assert page.get_by_role("region", name="Alarms").locator("tbody tr").count() == 300
    page.get_by_role("article").first.wait_for()
    visits.unharmed(visit)
    visit.open("alarms/x")
    assert page.get_by_role("region", name="History").locator("tbody tr").count() == 300
    visits.unharmed(visit)

    told |= {"verdict": HOSTILE[0], "reason": HOSTILE[1], "policy": HOSTILE[2], "replay": HOSTILE[3]}
    told["would_change"] = {text: text for text in HOSTILE if text != "__proto__"}
    told["evidence"] = [{**told["evidence"][0], "metric": text} for text in HOSTILE[:20]]
    for which in ("control", "treatment"):
        told[which] = {"variant": HOSTILE[4], "config": HOSTILE[5], "fleet": HOSTILE[6]}
    visit.open("ab/even")
    page.get_by_text(HOSTILE[1], exact=True).first.wait_for()
    visits.unharmed(visit)
    visit.open("ab")
    visits.unharmed(visit)

    rollout = {
        "endpoint": "even",
        "status": "Updating",
        "rollout": {
            "kind": "update",
            "type": HOSTILE[0],
            "phase": HOSTILE[1],
            "phase_at_s": now,
            "from": HOSTILE[2],
            "to": HOSTILE[3],
            "step": 1,
            "steps_percent": [50, 100],
            "share_percent": 50,
            "ends_at_s": None,
            "left_s": None,
            "times_out_at_s": None,
            "can_roll_back": True,
            "rollback_reason": HOSTILE[4],
            "old_instances": dict.fromkeys(HOSTILE, 1),
            "new_instances": {},
            "alarms": [{"name": text, "state": text, "reason": text} for text in HOSTILE],
        },
    }
    described = stage.sm.describe_endpoint(EndpointName="even")
    described = {
        "EndpointName": HOSTILE[0],
        "EndpointArn": described["EndpointArn"],
        "EndpointConfigName": HOSTILE[1],
        "EndpointStatus": "Updating",
        "CreationTime": now,
        "LastModifiedTime": now,
        "FailureReason": HOSTILE[2],
    }
    events = [
        {"sequence": at, "kind": text, "at_s": now, "detail": {"from": text, "reason": text, text: text}}
        for at, text in enumerate(HOSTILE)
    ]
    page.route("**/sagemaker/DescribeEndpoint", lambda route: route.fulfill(json=described))
    page.route("**/even/rollout", lambda route: route.fulfill(json=rollout))
    page.route("**/console/api/events*", lambda route: route.fulfill(json={"events": events}))
    visit.open("endpoints/even")
    assert page.locator("#rollout").get_by_role("list", name="Alarms").get_by_role("listitem").count() == 300
    until(lambda: page.get_by_role("region", name="Events").last.locator("tbody tr").count() == 300)
    visits.unharmed(visit)


def test_pages_are_accessible(chromium: Any, server: Any, stage: Any, signed_in: Any) -> None:
    alarm = "roll-roll-broken-AllTraffic-harm"
    places = ["ab", "ab/even", "ab/ab", "alarms", f"alarms/{alarm}", "endpoints/roll/update"]
    assert visits.faults_of_pages(chromium, server, signed_in, places, "light", 360) == []


def test_an_update_under_way_is_accessible(chromium: Any, server: Any, stage: Any, signed_in: Any) -> None:
    now = stage.sm.describe_endpoint_config(EndpointConfigName=serves(stage))
    stage.sm.create_endpoint_config(
        EndpointConfigName="roll-seen", ProductionVariants=now["ProductionVariants"]
    )
    stage.sm.update_endpoint(
        EndpointName="roll",
        EndpointConfigName="roll-seen",
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "WaitIntervalInSeconds": 3600,
                    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
                }
            }
        },
    )
    found = []
    for scheme, width in (("light", 1280), ("dark", 360)):
        found += visits.faults_of_pages(chromium, server, signed_in, ["endpoints/roll", ""], scheme, width)
    assert found == []
    call_server(read_server(server.data_dir), "POST", endpoint_path("roll", "rollback"), body={})
    stage.wait_for("roll")

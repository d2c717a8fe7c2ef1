"""The console in a real browser against a real server with traffic: stories clicked through to their end.

No page may log an error, break the content policy or open a dialog of the browser; every page is looked at
by axe-core, light and dark, wide and narrow.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from understudy.console.files import FOLDER
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
Visitor, until, unharmed, HOSTILE = visits.Visitor, visits.until, visits.unharmed, visits.HOSTILE
run_boto3, run_shell, snippet_of = visits.run_boto3, visits.run_shell, visits.snippet_of


@pytest.fixture(scope="module")
def server_options() -> list[str]:
    return ["--time-scale", "20"]


@pytest.fixture(scope="module")
def stage(server: Any) -> Iterator[Any]:
    """Two endpoints with traffic."""
    made = stage_module.Stage(server)
    made.models()
    made.endpoint("churn", {"production": ("churn-v1", 1.0)})
    made.endpoint("ab", {"Variant1": ("churn-v1", 0.5), "Variant2": ("churn-v2", 0.5)}, capture=True)
    with ExitStack() as traffic:
        traffic.enter_context(made.traffic("churn", per_s=20.0))
        traffic.enter_context(made.traffic("ab", per_s=20.0, errors=True))
        yield made


def records_found(page: Any) -> int:
    """Ask the capture browser again; count what it shows once it has the answer."""
    page.get_by_text("Reading …").wait_for(state="hidden")
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_text("Reading …").wait_for(state="hidden")
    return int(page.locator("details.record").count())


# --- stories ---------------------------------------------------------------------------------------


def test_sign_in(chromium: Any, server: Any, stage: Any) -> None:
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), server)
    page = visitor.open("endpoints/churn")
    page.get_by_label("Access key ID").fill("AKIDWRONG")
    page.get_by_label("Secret access key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    assert any("403" in one for one in visitor.complaints)  # the browser's own note of the refusal
    visitor.complaints.clear()
    facts = read_server(server.data_dir)
    page.get_by_label("Access key ID").fill(facts.access_key_id)
    page.get_by_label("Secret access key").fill(facts.secret_access_key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="churn", exact=True).wait_for()  # where one wanted to go
    cookie = next(one for one in context.cookies() if one["name"] == "understudy_console")
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert page.evaluate("document.cookie") == ""
    # A link from another site comes without the strict cookie, and finds the session nevertheless.
    link = f'<a href="{server.url}/console/endpoints/churn">look</a>'
    page.route("http://chat.example/", lambda route: route.fulfill(content_type="text/html", body=link))
    page.goto("http://chat.example/")
    page.get_by_role("link", name="look").click()
    page.get_by_role("heading", name="churn", exact=True).wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert visitor.complaints == []
    context.close()


def test_overview_is_live(visit: Visitor, stage: Any) -> None:
    page = visit.open("")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="ab", exact=True))
    until(lambda: float(row.locator("td").nth(2).inner_text().replace("–", "0")) > 1)
    until(lambda: row.locator("td").nth(4).inner_text().endswith("ms"))
    assert "Variant1 50 %" in row.inner_text()
    row.get_by_role("link", name="ab", exact=True).click()
    page.get_by_role("heading", name="ab", exact=True).wait_for()
    page.go_back()
    page.get_by_role("heading", name="Overview").wait_for()


def test_weights_by_typing_dragging_and_keys(visit: Visitor, stage: Any) -> None:
    def weights() -> list[float]:
        told = stage.sm.describe_endpoint(EndpointName="ab")
        assert told["EndpointStatus"] in ("InService", "Updating")
        return [one["DesiredWeight"] for one in told["ProductionVariants"]]

    page = visit.open("endpoints/ab")
    card = page.locator("#weights")
    apply = card.get_by_role("button", name="Apply")
    assert apply.is_disabled()
    card.get_by_label("Variant1", exact=True).fill("3")
    card.get_by_label("Variant2", exact=True).fill("1")
    assert "75 %" in card.inner_text()
    shown = snippet_of(card, "boto3")
    assert 'EndpointName="ab"' in shown and '"DesiredWeight": 3' in shown
    run_boto3(visit.server, shown)
    until(lambda: weights() == [3.0, 1.0])
    stage.wait_for("ab")
    until(lambda: page.locator("#weights").get_by_label("Variant1", exact=True).input_value() == "3")

    handle = page.get_by_role("slider", name="Border between Variant1 and Variant2")
    handle.scroll_into_view_if_needed()
    box, bar = handle.bounding_box(), page.locator(".weights").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(bar["x"] + bar["width"] * 0.25, box["y"] + 5, steps=5)
    page.mouse.up()
    assert page.locator("#weights").get_by_label("Variant1", exact=True).input_value() == "1"
    page.keyboard.press("Tab")
    handle.focus()
    page.keyboard.press("PageUp")
    assert page.locator("#weights").get_by_label("Variant1", exact=True).input_value() == "1.4"
    shown = snippet_of(page.locator("#weights"), "AWS CLI")
    page.locator("#weights").get_by_role("button", name="Apply").click()
    until(lambda: weights() == [1.4, 2.6])
    stage.wait_for("ab")
    run_shell(visit.server, shown)
    stage.wait_for("ab")
    assert weights() == [1.4, 2.6]


def test_endpoint_charts_numbers_events_and_logs(visit: Visitor, stage: Any) -> None:
    page = visit.open("endpoints/ab?range=15m")
    chart = page.locator("figure.chart").filter(has_text="ModelLatency")
    chart.scroll_into_view_if_needed()
    chart.locator("canvas").wait_for()
    chart.get_by_text("Numbers").click()
    until(lambda: "ms" in chart.locator("tbody").inner_text())
    for button, suffix, begin in (("CSV", "csv", b"time_utc,"), ("PNG", "png", b"\x89PNG")):
        with page.expect_download() as waiting:
            chart.get_by_role("button", name=button).click()
        download = waiting.value
        assert download.suggested_filename == f"modellatency.{suffix}"
        assert Path(download.path()).read_bytes().startswith(begin)
    page.get_by_role("link", name="1 h", exact=True).click()
    page.wait_for_url("**/endpoints/ab?range=1h")
    page.get_by_text("EndpointInService").first.wait_for()
    page.get_by_label("Filter lines").fill("refused a row")
    page.keyboard.press("Enter")
    until(lambda: "refused a row" in page.get_by_role("log").inner_text())
    assert "is loaded" not in page.get_by_role("log").inner_text()
    assert "log=refused" in page.url
    moments = page.locator("time[datetime]")
    assert "UTC" in moments.first.get_attribute("title")


def test_a_managed_shadow_test_from_wizard_to_promotion(visit: Visitor, stage: Any) -> None:
    page = visit.open("shadow-tests")
    page.get_by_role("link", name="Create shadow test").click()
    page.get_by_label("Name of the test").fill("new-churn")
    page.get_by_label("Endpoint", exact=True).select_option("churn")
    page.get_by_label("Model under test").select_option("churn-v2")
    page.get_by_label("Traffic sampling percentage").last.fill("60")
    page.get_by_label("Lasts").fill("2")
    page.get_by_label("Data capture").fill("s3://models/tests")
    assert "create_inference_experiment" in page.locator("aside").inner_text()
    page.get_by_role("button", name="Create").click()
    page.wait_for_url("**/shadow-tests/new-churn")
    page.locator("header.head .chip", has_text="Running").wait_for()
    page.get_by_text("left of").first.wait_for()

    statistics = page.get_by_role("region", name="Descriptive statistics")
    until(lambda: "ms" in statistics.get_by_role("row").nth(2).inner_text())
    accounting = page.get_by_role("region", name="Mirror accounting")

    def adds_up() -> bool:
        cells = accounting.locator("tbody td.number:nth-child(2)").all_inner_texts()
        *parts, total = [int(one.replace(",", "")) for one in cells]
        return total > 60 and sum(parts) == total and parts[0] > 20

    until(adds_up)

    def compared() -> bool:
        page.get_by_role("button", name="Compare answers").click()
        page.locator("#differences").get_by_text("agree").or_(
            page.get_by_text("No request has")
        ).first.wait_for()
        return bool(page.locator("article.example").count())

    until(compared)
    example = page.locator("article.example").first
    assert example.locator("pre").count() == 3 and '"scores"' in example.inner_text()

    # Sampling can change while it runs.
    page.get_by_text("Change the sampling percentage").click()
    page.get_by_label("Traffic sampling percentage").fill("100")
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_text("copies of 100 % of requests").wait_for()
    page.locator("header.head .chip", has_text="Running").wait_for()

    page.get_by_role("button", name="Mark complete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Instances of the new production variant").select_option("other")
    dialog.get_by_label("Instances", exact=True).fill("2")
    dialog.get_by_label("Reason").fill("<b>better</b>")
    assert '"shadow": "Promote"' in dialog.inner_text() and '"InstanceCount": 2' in dialog.inner_text()
    dialog.get_by_role("button", name="Promote shadow").click()
    page.locator("header.head .chip", has_text="Completed").wait_for()
    page.get_by_text("<b>better</b>").wait_for()
    stage.wait_for("churn")
    (serving,) = stage.sm.describe_endpoint(EndpointName="churn")["ProductionVariants"]
    assert (serving["VariantName"], serving["CurrentInstanceCount"]) == ("shadow", 2)

    page = visit.open("shadow-tests?status=completed")
    page.get_by_role("link", name="new-churn").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete test").click()
    page.wait_for_url("**/shadow-tests")
    assert not stage.sm.list_inference_experiments()["InferenceExperiments"]


def test_a_shadow_test_on_a_new_endpoint_that_is_removed(visit: Visitor, stage: Any) -> None:
    page = visit.open("shadow-tests/new")
    page.get_by_label("Name of the test").fill("fresh")
    page.get_by_label("Endpoint", exact=True).select_option("")
    page.get_by_label("Name of the endpoint").fill("fresh-endpoint")
    page.get_by_label("Production model").select_option("churn-v1")
    page.get_by_label("Model under test").select_option("churn-v2")
    shown = snippet_of(page.locator("aside"), "AWS CLI")
    assert "aws sagemaker create-inference-experiment" in shown
    page.get_by_role("button", name="Create").click()
    page.locator("header.head .chip", has_text="Running").wait_for()
    page.get_by_role("button", name="Mark complete").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What becomes of the shadow").select_option("remove")
    dialog.get_by_role("button", name="Remove shadow").click()
    page.locator("header.head .chip", has_text="Completed").wait_for()
    stage.wait_for("fresh-endpoint")
    told = stage.sm.describe_endpoint(EndpointName="fresh-endpoint")
    assert [one["VariantName"] for one in told["ProductionVariants"]] == ["production"]
    assert "ShadowProductionVariants" not in told
    page = visit.open("endpoints/fresh-endpoint")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete endpoint").click()
    page.get_by_role("heading", name="Overview").wait_for()
    until(lambda: "fresh-endpoint" not in str(stage.sm.list_endpoints(MaxResults=100)["Endpoints"]))


def test_a_shadow_variant_by_hand(visit: Visitor, stage: Any) -> None:
    stage.endpoint("hand", {"production": ("churn-v1", 1.0)})
    page = visit.open("shadow-tests/new?endpoint=hand&way=manual")
    page.get_by_label("Name of the endpoint configuration").fill("hand-shadow")
    page.get_by_label("Model under test").select_option("churn-v2")
    page.get_by_label("Traffic sampling percentage").last.fill("50")
    shown = snippet_of(page.locator("aside"), "boto3")
    assert "create_endpoint_config" in shown and "update_endpoint" in shown
    run_boto3(visit.server, shown)
    stage.wait_for("hand")
    (shadow,) = stage.sm.describe_endpoint(EndpointName="hand")["ShadowProductionVariants"]
    assert (shadow["VariantName"], shadow["CurrentWeight"]) == ("shadow", 0.5)
    page = visit.open("endpoints/hand")
    page.get_by_text("50 % copied").wait_for()
    stage.sm.delete_endpoint(EndpointName="hand")


def test_models_captures_and_the_invoke_box(visit: Visitor, stage: Any) -> None:
    page = visit.open("models?find=churn-v2")
    article = page.get_by_role("article", name="churn-v2")
    assert "s3://models/churn-v2.tar.gz" in article.inner_text() and "ETag" in article.inner_text()
    article.get_by_role("link", name="ab-config").click()
    page.get_by_role("heading", name="ab-config").wait_for()

    page = visit.open("invoke?endpoint=ab&variant=Variant2")
    page.get_by_label("Body").fill("1,2,3")
    page.get_by_label("Inference ID").fill("from-the-box")
    shown = snippet_of(page.locator("aside"), "AWS CLI")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="200 from Variant2").wait_for()
    assert "scores" in page.locator("#answer").inner_text()
    assert "scores" in run_shell(visit.server, shown)
    page.get_by_label("Body").fill("not,a,number")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="424").wait_for()

    page = visit.open("captures?endpoint=ab&variant=Variant2&inference_id=from-the-box&span=86400")
    # One was sent by the box, one by the command that it showed.
    until(lambda: records_found(page) > 1)
    record = page.locator("details.record").first
    at_s = int(page.locator("details.record time").last.evaluate("one => new Date(one.dateTime) / 1000"))
    record.locator("summary").click()
    assert (
        record.locator("pre").first.inner_text() == "1,2,3"
        and "scores" in record.locator("pre").last.inner_text()
    )
    # Until a time: the record is in the window that ends after it, and in none that ends before.
    page = visit.open(f"captures?endpoint=ab&inference_id=from-the-box&span=900&until={at_s + 1}")
    page.locator("details.record").first.wait_for()
    page = visit.open(f"captures?endpoint=ab&inference_id=from-the-box&span=900&until={at_s}")
    page.get_by_text("No records here").wait_for()


# --- what goes wrong meanwhile ----------------------------------------------------------------------


def only_notes_of_requests(complaints: list[str]) -> bool:
    """The browser itself notes each request that failed, which no page can keep it from."""
    return all("Failed to load resource" in one for one in complaints)


def test_pages_outlive_a_restart_of_the_controller(visit: Visitor, stage: Any) -> None:
    page = visit.open("")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="churn", exact=True))

    def rate() -> float:
        return float(row.locator("td").nth(2).inner_text().replace("–", "0"))

    until(lambda: rate() > 1)
    processes = page.evaluate("async () => (await (await fetch('/console/api/status')).json()).processes")
    (pid,) = [one["pid"] for one in processes if one["role"] == "controller"]
    os.kill(pid, signal.SIGKILL)
    page.get_by_text("Reconnecting").wait_for()
    page.get_by_text("Reconnecting").wait_for(state="hidden")
    shown = row.locator("td").nth(2).inner_text()
    until(lambda: row.locator("td").nth(2).inner_text() != shown)
    page.get_by_role("link", name="churn", exact=True).click()
    page.get_by_role("heading", name="churn", exact=True).wait_for()
    assert only_notes_of_requests(visit.complaints), visit.complaints
    visit.complaints.clear()


def test_a_session_that_is_over_is_asked_for_again(chromium: Any, server: Any, stage: Any) -> None:
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), server)
    visitor.sign_in()
    page = visitor.open("endpoints/churn?range=1h")
    context.clear_cookies()
    page.get_by_text("Your session is over").wait_for()
    field = page.get_by_label("Access key ID")
    facts = read_server(server.data_dir)
    field.press_sequentially(facts.access_key_id, delay=50)  # while whatever asked goes on asking
    assert field.input_value() == facts.access_key_id
    page.get_by_label("Secret access key").fill(facts.secret_access_key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="churn", exact=True).wait_for()
    assert page.url.endswith("endpoints/churn?range=1h")
    assert only_notes_of_requests(visitor.complaints), visitor.complaints
    context.close()


def test_an_endpoint_that_fails_and_goes(visit: Visitor, stage: Any) -> None:
    """A name as long as names are, a reason that matters, and a page of what is deleted meanwhile."""
    name = "f" * 63
    stage.model("broken", "def model_fn(model_dir):\n    raise RuntimeError('<i>no weights</i>')\n")
    variant = {"VariantName": "v" * 63, "ModelName": "broken", "InstanceType": "ml.m5.large"}
    variant |= {"InitialInstanceCount": 1, "InitialVariantWeight": 1.0}
    stage.sm.create_endpoint_config(EndpointConfigName="broken", ProductionVariants=[variant])
    stage.sm.create_endpoint(EndpointName=name, EndpointConfigName="broken")
    page = visit.open("")
    attention = page.get_by_role("region", name="Needs attention")
    attention.get_by_text("<i>no weights</i>").wait_for()
    attention.get_by_role("link", name=name).click()
    page.get_by_role("heading", name=name).wait_for()
    page.get_by_text("<i>no weights</i>").first.wait_for()
    page.locator("header.head .chip", has_text="Failed").wait_for()
    page.set_viewport_size({"width": 360, "height": 740})
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    stage.sm.delete_endpoint(EndpointName=name)
    page.get_by_role("heading", name="Overview").wait_for()
    page = visit.page
    page.goto(f"{visit.server.url}/console/endpoints/{name}")
    page.get_by_text("Could not find").wait_for()
    assert only_notes_of_requests(visit.complaints), visit.complaints
    visit.complaints.clear()


ODD_PLACES = [
    "nowhere",
    "endpoints/%E0%A4%A",
    "endpoints/none%2F..%2Fx",
    "endpoints/ab?range=none&log=%22%3Cb%3E",
    "shadow-tests/none",
    "shadow-tests?status=none",
    "shadow-tests/new?endpoint=none&model=none&way=none",
    "ab/none",
    "ab/ab?control=none&treatment=none",
    "alarms/none",
    "alarms?state=none&endpoint=none",
    "models/config/none",
    "models?find=%00%ff",
    "captures?endpoint=none&span=none&until=none",
    "captures?endpoint=ab&until=1e99",
    "invoke?endpoint=none&variant=none",
    "endpoints/ab/update?config=none&way=none",
]


def test_odd_addresses_are_answered_in_words(visit: Visitor, stage: Any) -> None:
    for place in ODD_PLACES:
        page = visit.page
        page.goto(f"{visit.server.url}/console/{place}")
        page.locator("main h1, main .notice").first.wait_for()
        page.wait_for_timeout(100)  # the browser's note may come after the page's own words
        assert only_notes_of_requests(visit.complaints), (place, visit.complaints)
        visit.complaints.clear()


# --- hostile words ---------------------------------------------------------------------------------

ECHO = """\
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    encoding = "utf-8" if content_type == "text/csv" else "latin-1"
    text = body if isinstance(body, str) else bytes(body).decode(encoding)
    print(text, flush=True)
    if text.startswith("<b>fail"):
        raise ValueError(text)
    return text, "text/html"
"""


@pytest.fixture(scope="module")
def hostile(stage: Any) -> Any:
    """An endpoint whose bodies, answers, ids, logs, errors and reasons are hostile."""
    assert len(HOSTILE) == len(set(HOSTILE)) == 300
    stage.model("echo", ECHO)
    stage.endpoint("hostile", {"production": ("echo", 1.0)}, capture=True)
    runtime = stage.server.client("sagemaker-runtime")
    for number, text in enumerate(HOSTILE):
        more = {"InferenceId": text[:64]} if text.isascii() else {}
        answer = runtime.invoke_endpoint(
            EndpointName="hostile",
            ContentType="text/csv",
            CustomAttributes=f"<i>{number}</i>",
            Body=text,
            **more,
        )
        assert answer["Body"].read().decode() == text
    binary = bytes(range(256))
    runtime.invoke_endpoint(
        EndpointName="hostile", ContentType="application/octet-stream", Body=binary, InferenceId="binary"
    )
    stage.sm.create_inference_experiment(
        Name="hostile-test",
        Type="ShadowMode",
        RoleArn=stage_module.ROLE,
        EndpointName="hostile",
        Description=HOSTILE[1],
        Schedule={"StartTime": stage.now() + 86400 * 30},
        ModelVariants=[stage_module.variant("production", "echo"), stage_module.variant("shadow", "echo")],
        ShadowModeConfig={
            "SourceModelVariantName": "production",
            "ShadowModelVariants": [{"ShadowModelVariantName": "shadow", "SamplingPercentage": 1}],
        },
    )
    return stage


def test_hostile_bodies_ids_and_logs_are_text(visit: Visitor, hostile: Any) -> None:
    page = visit.open("captures?endpoint=hostile&span=2592000")

    def everything() -> Any:
        return page.evaluate(
            """async () => {
              const end = Date.now();
              const query = new URLSearchParams(
                {endpoint: 'hostile', variants: 'production', start_s: 0, end_s: 1e11, limit: 500});
              return (await (await fetch('/console/api/captures?' + query)).json()).records.length;
            }"""
        )

    until(lambda: everything() >= 300)
    until(lambda: records_found(page) >= 50)
    for record in page.locator("details.record > summary").all()[:25]:  # every seed
        record.click()
    # Bodies and answers; the one that is binary may be among them.
    assert sum(text in HOSTILE for text in page.locator("details.record pre").all_inner_texts()) >= 40
    unharmed(visit)
    page = visit.open("captures?endpoint=hostile&span=2592000&inference_id=binary")
    until(lambda: records_found(page))
    page.locator("details.record > summary").click()
    assert "256 bytes" in page.locator("details.record").inner_text()
    unharmed(visit)
    page = visit.open("endpoints/hostile")
    until(lambda: "window.hit" in page.get_by_role("log").inner_text())
    unharmed(visit)
    page = visit.open("invoke?endpoint=hostile")
    page.get_by_label("Body").fill("<b>fail<img src=x onerror=window.hit=1>")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="424").wait_for()
    assert "<img" in page.locator("#answer").inner_text()
    unharmed(visit)
    page = visit.open("shadow-tests/hostile-test")
    page.get_by_text(HOSTILE[1]).first.wait_for()
    unharmed(visit)
    page = visit.open(f"models?find={HOSTILE[1].replace(' ', '%20')}")
    unharmed(visit)


def test_hostile_names_reasons_and_errors_are_text(visit: Visitor, hostile: Any) -> None:
    """A server that lies: every text of its answers is hostile."""
    told = {
        "processes": [],
        "tests": [],
        "endpoints": [
            {
                "name": text,
                "status": text,
                "config_name": text,
                "failure_reason": text,
                "variants": [
                    {
                        "name": text,
                        "model_name": text,
                        "instance_type": text,
                        "weight": 1,
                        "desired_weight": 1,
                        "share": 1,
                        "shadow": False,
                        "instances": 0,
                        "desired_instances": 1,
                        "images": [{"specified": text, "resolved": text}],
                        "detail": [{"instance": text, "status": "Failed", "detail": text, "reason": text}],
                    }
                ],
            }
            for text in HOSTILE
        ],
    }
    visit.page.route("**/console/api/status", lambda route: route.fulfill(json=told))
    visit.page.route(
        "**/console/api/live*",
        lambda route: route.fulfill(body="retry: 60000\n\n", content_type="text/event-stream"),
    )
    page = visit.open("")
    until(lambda: page.locator("tbody tr").count() == 100)
    page.get_by_role("button", name="Show 100 more of 200").click()
    page.get_by_role("button", name="Show 100 more of 100").click()
    assert page.locator("tbody tr").count() == 300
    page.get_by_role("button", name="Show 592 more").click()
    assert page.get_by_role("region", name="Needs attention").get_by_role("listitem").count() == 600
    assert page.locator("tbody tr a").nth(1).inner_text() == HOSTILE[1]
    unharmed(visit)
    page = visit.open("captures")
    unharmed(visit)
    lineage = {
        "models": [
            {
                "name": text,
                "created_at_s": 1,
                "containers": [
                    {
                        "hostname": text,
                        "image": text,
                        "artifact": text,
                        "etag": text,
                        "size_bytes": 1,
                        "modified_at_s": 1,
                    }
                ],
                "configs": [text],
                "running": [
                    {
                        "endpoint": text,
                        "variant": text,
                        "shadow": True,
                        "config": text,
                        "images": [{"specified": text, "resolved": text}],
                        "artifacts": [],
                    }
                ],
            }
            for text in HOSTILE
        ],
        "deleted": [],
        "configs": [],
    }
    visit.page.route("**/console/api/lineage", lambda route: route.fulfill(json=lineage))
    page = visit.open("models")
    assert page.get_by_role("article").count() == 300
    unharmed(visit)


def test_snippets_hold_any_text(visit: Visitor, hostile: Any, tmp_path: Path) -> None:
    """What is shown to copy means the same to Python and to a shell, whatever is in it."""
    page = visit.open("")
    texts = [
        *HOSTILE[:60],
        "it's",
        'say "no"',
        "back\\slash",
        "line\nbreak",
        "$(touch hit)",
        "`id`",
        "-n",
        "a b",
        "é",
    ]
    # The page has its modules joined; here one is wanted by itself.
    page.route(
        "**/console/static/apart/**",
        lambda route: route.fulfill(path=FOLDER / route.request.url.rpartition("/apart/")[2]),
    )
    shown = page.evaluate(
        """async (texts) => {
          const snippets = await import('/console/static/apart/js/snippets.js');
          return texts.map((one) => [
            snippets.boto3([['sagemaker', 'AddTags', {Name: one}]]),
            snippets.cli([['sagemaker', 'AddTags', {Name: one, More: [{Key: one}]}]]),
          ]);
        }""",
        texts,
    )
    for text, (python, shell) in zip(texts, shown, strict=True):
        lines = python.split("\n")
        client = Mock()
        exec("\n".join(lines[lines.index("") + 2 :]), {"sm": client})
        client.add_tags.assert_called_once_with(Name=text)
        done = subprocess.run(
            ["bash", "-c", "aws() { printf '%s\\0' \"$@\"; }\n" + shell],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        words = done.stdout.split("\0")[:-1]
        name = [f"--name={text}"] if text.startswith("-") else ["--name", text]
        assert words[:-1] == ["sagemaker", "add-tags", *name, "--more"]
        assert json.loads(words[-1]) == [{"Key": text}]
    assert not list(tmp_path.iterdir())


# --- everybody can read it -------------------------------------------------------------------------

PLACES = [
    "",
    "endpoints/ab",
    "shadow-tests",
    "shadow-tests/new?endpoint=churn",
    "models",
    "captures?endpoint=ab",
    "invoke?endpoint=ab",
]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_pages_are_accessible(
    chromium: Any, server: Any, stage: Any, signed_in: Any, scheme: str, width: int
) -> None:
    assert visits.faults_of_pages(chromium, server, signed_in, PLACES, scheme, width) == []


def test_everything_by_keyboard(visit: Visitor, stage: Any) -> None:
    page = visit.open("")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent"))
    assert {"Overview", "Shadow tests", "Models", "ab"} <= reached
    page.get_by_role("link", name="ab", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="ab", exact=True).wait_for()

"""Take the pictures of the console that the pages show: ``make screenshots``.

Starts a server of its own with two endpoints, a shadow test and traffic, and looks at the main pages with a
Chromium: light and dark, wide and phone.  Main function: :func:`main`.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from playwright.sync_api import sync_playwright

from understudy.demo.server import start_server
from understudy.sdk.servers import Server
from understudy.settings import process_environment

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SETTLE_MS = 25_000  # traffic before the first picture, so that charts have lines
PAGES = {
    "overview": "",
    "endpoint": "endpoints/churn-ab?range=5m",
    "shadow-tests": "shadow-tests",
    "shadow-test": "shadow-tests/new-churn",
    "shadow-new": "shadow-tests/new?endpoint=churn",
    "rollout": "endpoints/churn-rollout",
    "update": "endpoints/churn-ab/update",
    "ab": "ab/churn-ab",
    "alarms": "alarms",
    "alarm": "alarms/churn-errors?range=5m",
    "models": "models",
    "captures": "captures?endpoint=churn&span=900",
    "invoke": "invoke?endpoint=churn",
}
SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
TALL = ("endpoint", "shadow-test", "rollout", "ab", "alarms")
PHONE = ("overview", "endpoint", "shadow-test", "rollout", "ab")


@dataclass(frozen=True)
class Served:
    """A server as the stage wants it."""

    server: Server

    @property
    def data_dir(self) -> Path:
        """Its data directory."""
        assert self.server.data_dir is not None
        return self.server.data_dir

    def client(self, service: str, **options: Any) -> Any:
        """Build a boto3 client."""
        return boto3.session.Session().client(
            service,
            endpoint_url=self.server.endpoint_url,
            region_name=self.server.region,
            aws_access_key_id=self.server.access_key_id,
            aws_secret_access_key=self.server.secret_access_key,
            **options,
        )


def main() -> None:
    """Take them all."""
    path = ROOT / "tests" / "journeys" / "console_stage.py"
    spec = importlib.util.spec_from_file_location("console_stage", path)
    assert spec is not None and spec.loader is not None
    staging = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(staging)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        started = start_server(
            Path(folder) / "data",
            log=Path(folder) / "log",
            ephemeral=False,
            environment=process_environment(),
        )
        try:
            served = Served(started.server)
            stage = staging.Stage(served)
            stage.models()
            stage.endpoint("churn", {"production": ("churn-v1", 1.0)}, capture=True)
            stage.endpoint("churn-ab", {"Variant1": ("churn-v1", 0.7), "Variant2": ("churn-v2", 0.3)})
            stage.endpoint("churn-rollout", {"AllTraffic": ("churn-v1", 1.0)})
            with ExitStack() as traffic:
                traffic.enter_context(stage.traffic("churn-rollout"))
                traffic.enter_context(stage.traffic("churn"))
                traffic.enter_context(stage.traffic("churn-ab"))
                stage.sm.create_inference_experiment(
                    Name="new-churn",
                    Type="ShadowMode",
                    Description="Does the new model answer as fast?",
                    RoleArn=staging.ROLE,
                    EndpointName="churn",
                    ModelVariants=[
                        staging.variant("production", "churn-v1"),
                        staging.variant("shadow", "churn-v2"),
                    ],
                    ShadowModeConfig={
                        "SourceModelVariantName": "production",
                        "ShadowModelVariants": [
                            {"ShadowModelVariantName": "shadow", "SamplingPercentage": 60}
                        ],
                    },
                )
                assert stage.test_status("new-churn", "Running") == "Running"
                roll(served)
                browser = staging.launch(playwright)
                if browser is None:
                    sys.exit("No Chromium: run `make browser`.")
                take(browser, started.server)
                browser.close()
        finally:
            started.stop()


def roll(served: Served) -> None:
    """Begin a linear update that an alarm guards; its steps bake longer than the pictures take."""
    sagemaker = served.client("sagemaker")
    served.client("cloudwatch").put_metric_alarm(
        AlarmName="churn-errors",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[
            {"Name": "EndpointName", "Value": "churn-rollout"},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        Statistic="Average",
        Period=10,
        EvaluationPeriods=1,
        Threshold=0.05,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    present = sagemaker.describe_endpoint_config(EndpointConfigName="churn-rollout-config")
    variants = [{**one, "ModelName": "churn-v2"} for one in present["ProductionVariants"]]
    sagemaker.create_endpoint_config(EndpointConfigName="churn-rollout-2", ProductionVariants=variants)
    sagemaker.update_endpoint(
        EndpointName="churn-rollout",
        EndpointConfigName="churn-rollout-2",
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "LINEAR",
                    "WaitIntervalInSeconds": 120,
                    "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 20},
                }
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "churn-errors"}]},
        },
    )


def take(browser: Any, server: Server) -> None:
    """Visit every page in every look."""
    root = f"{server.endpoint_url}/console/"
    first = browser.new_context()
    page = first.new_page()
    page.goto(root)
    page.get_by_label("Access key ID").fill(server.access_key_id)
    page.get_by_label("Secret access key").fill(server.secret_access_key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    page.wait_for_timeout(SETTLE_MS)
    state = first.storage_state()
    first.close()
    for size, viewport in SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                storage_state=state,
                viewport=viewport,
                color_scheme=scheme,
                device_scale_factor=1 if size == "wide" else 2,
            )
            page = context.new_page()
            for name, place in PAGES.items():
                if size == "phone" and name not in PHONE:
                    continue
                tall = size == "wide" and name in TALL
                page.set_viewport_size({**viewport, "height": 1500} if tall else viewport)
                page.goto(root + place)
                page.locator("html[data-drawn]").wait_for(state="attached")
                if name == "shadow-test":
                    page.get_by_role("button", name="Compare answers").click()
                if name == "captures":
                    page.locator("details.record").first.wait_for()
                    page.locator("details.record summary").first.click()
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(8000 if name == "overview" else 3500)
                page.screenshot(path=IMAGES / f"console-{name}-{size}-{scheme}.png")
            context.close()


if __name__ == "__main__":
    main()

"""``understudy shadow``: managed shadow tests from the shell, over boto3's InferenceExperiment calls.

Owns nothing but words and defaults; whatever it does can be done with boto3 in the same calls.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from understudy.cli import shadow_report
from understudy.cli.connection import boto3_client, connect, data_dir_option
from understudy.cli.logs import parse_duration_s
from understudy.core.names import Place

POLL_S = 0.5
START_TRIES = 20
SETTLED = ("Created", "Running", "Completed", "Cancelled")

F = TypeVar("F", bound=Callable[..., Any])


def _answered(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call the server; what it refuses becomes an error of the command, in its own words."""
    from botocore.exceptions import ClientError, ParamValidationError

    try:
        return function()
    except ClientError as error:
        raise click.ClickException(f"{error.response['Error']['Message']}") from error
    except ParamValidationError as error:
        raise click.ClickException(str(error)) from error


def _wait_option(function: F) -> F:
    return click.option("--wait/--no-wait", default=True, help="Wait until it is done.  [default: wait]")(
        function
    )


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@click.group("shadow", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Test a model beside the one that serves: it gets copies of live requests and answers nobody.

    \b
    Examples:
      understudy shadow start new-churn --endpoint churn --model churn-v2 --sampling 50
      understudy shadow status new-churn
      understudy shadow promote new-churn --size production
      understudy shadow remove new-churn
    """


# --- start -----------------------------------------------------------------------------------------


@command.command("start")
@click.argument("name")
@data_dir_option
@click.option("--endpoint", help="Endpoint to test on. Without it, NAME is a scheduled test to start now.")
@click.option("--model", help="Model to test.")
@click.option(
    "--sampling", type=click.IntRange(0, 100), default=100, help="Percent of requests.  [default: 100]"
)
@click.option("--variant", default="shadow", help="Name of the shadow variant.  [default: shadow]")
@click.option("--instance-type", help="Of the shadow variant.  [default: as production]")
@click.option(
    "--instance-count", type=click.IntRange(min=1), help="Of the shadow variant.  [default: as production]"
)
@click.option("--duration", metavar="TIME", help="1h to 30d.  [default: 7d]")
@click.option(
    "--at", "starts_at", metavar="TIME", help="Start at 2030-01-31T08:00 (UTC) or in 2h.  [default: now]"
)
@click.option("--capture", metavar="S3URI", help="Keep requests and answers there.")
@click.option("--description", help="For people.")
@_wait_option
@_json_option
def start(
    name: str,
    data_dir: str | None,
    endpoint: str | None,
    model: str | None,
    sampling: int,
    variant: str,
    instance_type: str | None,
    instance_count: int | None,
    duration: str | None,
    starts_at: str | None,
    capture: str | None,
    description: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Create the shadow test NAME on an endpoint and start it, or start one that is scheduled.

    \b
    Examples:
      understudy shadow start new-churn --endpoint churn --model churn-v2
      understudy shadow start nightly --endpoint churn --model churn-v2 --at 6h --duration 12h
      understudy shadow start nightly          (now, not in six hours)
    """
    if endpoint is None and model is not None:
        raise click.UsageError("--model needs --endpoint: on which endpoint shall it be tested?")
    if endpoint is not None and model is None:
        raise click.UsageError("--endpoint needs --model: which model shall be tested?")
    server = connect(data_dir)
    client = boto3_client(server, "sagemaker")
    if endpoint is None or model is None:
        _answered(lambda: client.start_inference_experiment(Name=name))
    else:
        source = _production(client, endpoint)
        size = source["InfrastructureConfig"]["RealTimeInferenceConfig"]
        shadow = _model_variant(
            variant,
            model,
            instance_type or size["InstanceType"],
            instance_count or size["InstanceCount"],
        )
        account = boto3_client(server, "sts").get_caller_identity()["Account"]
        request: dict[str, Any] = {
            "Name": name,
            "Type": "ShadowMode",
            "RoleArn": Place(account, server.region).role_arn,
            "EndpointName": endpoint,
            "ModelVariants": [source, shadow],
            "ShadowModeConfig": {
                "SourceModelVariantName": source["VariantName"],
                "ShadowModelVariants": [{"ShadowModelVariantName": variant, "SamplingPercentage": sampling}],
            },
        }
        if capture is not None:
            request["DataStorageConfig"] = {
                "Destination": capture,
                "ContentType": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
            }
        if description is not None:
            request["Description"] = description
        _answered(
            lambda: _create(client, request, lambda: plan_schedule(server.now_s(), starts_at, duration))
        )
    _report(client, name, wait, ("Created", "Running"), as_json)


def _create(client: Any, request: dict[str, Any], plan: Callable[[], dict[str, datetime]]) -> dict[str, Any]:
    """Create a test; with a scaled clock "now" may be past when the server reads it: then once more."""
    from botocore.exceptions import ClientError

    for left in reversed(range(START_TRIES)):
        schedule = plan()
        try:
            return dict(
                client.create_inference_experiment(**request, **({"Schedule": schedule} if schedule else {}))
            )
        except ClientError as error:
            # A time that was given does not move: it stays past.
            if not left or "must not be in the past" not in str(error) or plan() == schedule:
                raise
    raise AssertionError("the last try returns or raises")


def _production(client: Any, endpoint: str) -> dict[str, Any]:
    """Describe an endpoint's one production variant as a test wants it."""
    described = _answered(lambda: client.describe_endpoint(EndpointName=endpoint))
    serving = described.get("ProductionVariants", [])
    if len(serving) != 1:
        raise click.ClickException(
            f"Endpoint {endpoint} is {described['EndpointStatus']} with {len(serving)} production variants; "
            "a shadow test needs one that serves with exactly one."
        )
    name = described["EndpointConfigName"]
    config = _answered(lambda: client.describe_endpoint_config(EndpointConfigName=name))
    for variant in config["ProductionVariants"]:
        if variant["VariantName"] == serving[0]["VariantName"]:
            return _model_variant(
                variant["VariantName"],
                variant["ModelName"],
                variant["InstanceType"],
                serving[0]["CurrentInstanceCount"],
            )
    raise click.ClickException(
        f"Endpoint configuration {name} does not describe {serving[0]['VariantName']}."
    )


def _model_variant(name: str, model: str, instance_type: str, count: int) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": {"InstanceType": instance_type, "InstanceCount": count},
        },
    }


def plan_schedule(now_s: float, starts_at: str | None, duration: str | None) -> dict[str, datetime]:
    """Read ``--at`` and ``--duration``.

    Args:
        now_s: The server's clock.
        starts_at: ``2h`` from now, an ISO time (UTC unless it says otherwise), or None for now.
    Raises:
        click.BadParameter: neither.
    """
    if starts_at is None and duration is None:
        return {}
    start = datetime.fromtimestamp(now_s, UTC)
    if starts_at is not None:
        try:
            at = datetime.fromisoformat(starts_at)
            start = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        except ValueError:
            start += timedelta(seconds=parse_duration_s(starts_at, "--at"))
    schedule = {"StartTime": start}
    if duration is not None:
        schedule["EndTime"] = start + timedelta(seconds=parse_duration_s(duration, "--duration"))
    return schedule


# --- status ----------------------------------------------------------------------------------------


@command.command("status")
@click.argument("name", required=False)
@data_dir_option
@_json_option
def status(name: str | None, data_dir: str | None, as_json: bool) -> None:
    """List shadow tests, or show the test NAME with its variants' metrics side by side.

    \b
    Examples:
      understudy shadow status
      understudy shadow status new-churn --json
    """
    server = connect(data_dir)
    client = boto3_client(server, "sagemaker")
    if name is None:
        tests = _list(client)
        if as_json:
            click.echo(json.dumps(tests, indent=2, default=shadow_report.as_text))
        else:
            shadow_report.show_list(tests)
        return
    told = _answered(lambda: client.describe_inference_experiment(Name=name))
    told.pop("ResponseMetadata", None)
    told["Metrics"] = shadow_report.read_metrics(boto3_client(server, "cloudwatch"), told, server.now_s())
    if as_json:
        click.echo(json.dumps(told, indent=2, default=shadow_report.as_text))
    else:
        shadow_report.show_test(told)


def _list(client: Any) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = _answered(lambda: client.list_inference_experiments(MaxResults=100, **more))  # noqa: B023
        tests += page["InferenceExperiments"]
        if "NextToken" not in page:
            return tests
        more = {"NextToken": page["NextToken"]}


# --- the end ---------------------------------------------------------------------------------------


@command.command("promote")
@click.argument("name")
@data_dir_option
@click.option(
    "--size",
    default="shadow",
    metavar="production|shadow|TYPE:COUNT",
    help="Instances of the new production variant: as production had, as the shadow has, or these.",
)
@click.option("--reason", help="For people.")
@_wait_option
@_json_option
def promote(
    name: str, data_dir: str | None, size: str, reason: str | None, wait: bool, as_json: bool
) -> None:
    """Let the shadow variant of test NAME take production's place; no request is lost.

    \b
    Examples:
      understudy shadow promote new-churn --size production
      understudy shadow promote new-churn --size ml.m5.xlarge:4
    """
    client = boto3_client(connect(data_dir), "sagemaker")
    told = _answered(lambda: client.describe_inference_experiment(Name=name))
    source, shadow, sampling = _names(told)
    variants = {one["VariantName"]: one for one in told["ModelVariants"]}
    request: dict[str, Any] = {
        "Name": name,
        "ModelVariantActions": {source: "Remove", shadow: "Promote"},
        "DesiredState": "Completed",
        "DesiredModelVariants": [desired_variant(size, variants[source], variants[shadow])],
    }
    if reason is not None:
        request["Reason"] = reason
    if size == "shadow" and sampling < 100:
        click.echo(
            f"Warning: {shadow} has seen {sampling} % of the requests with these instances; from now on it "
            "gets all. --size production gives it what production has.",
            err=True,
        )
    _answered(lambda: client.stop_inference_experiment(**request))
    _report(client, name, wait, ("Completed",), as_json)


def desired_variant(size: str, source: dict[str, Any], shadow: dict[str, Any]) -> dict[str, Any]:
    """Say what shall be deployed by a promotion.

    Args:
        size: ``production``, ``shadow`` or ``TYPE:COUNT``.
        source, shadow: ModelVariantConfigSummary of each.
    Raises:
        click.BadParameter: none of them.
    """
    if size in ("production", "shadow"):
        chosen = (source if size == "production" else shadow)["InfrastructureConfig"][
            "RealTimeInferenceConfig"
        ]
        instance_type, count = chosen["InstanceType"], chosen["InstanceCount"]
    else:
        instance_type, _, number = size.partition(":")
        if not number.isdecimal() or int(number) < 1:
            raise click.BadParameter("say production, shadow or TYPE:COUNT, as in ml.m5.xlarge:2.")
        count = int(number)
    return _model_variant(shadow["VariantName"], shadow["ModelName"], instance_type, count)


@command.command("remove")
@click.argument("name")
@data_dir_option
@click.option("--reason", help="For people.")
@click.option("--cancel", is_flag=True, help="Mark the test Cancelled, not Completed.")
@_wait_option
@_json_option
def remove(
    name: str, data_dir: str | None, reason: str | None, cancel: bool, wait: bool, as_json: bool
) -> None:
    """End the test NAME: remove its shadow variant and give the endpoint back as it was.

    \b
    Examples:
      understudy shadow remove new-churn
      understudy shadow remove new-churn --cancel --reason "wrong model"
    """
    client = boto3_client(connect(data_dir), "sagemaker")
    source, shadow, _ = _names(_answered(lambda: client.describe_inference_experiment(Name=name)))
    request: dict[str, Any] = {
        "Name": name,
        "ModelVariantActions": {source: "Retain", shadow: "Remove"},
        "DesiredState": "Cancelled" if cancel else "Completed",
    }
    if reason is not None:
        request["Reason"] = reason
    _answered(lambda: client.stop_inference_experiment(**request))
    _report(client, name, wait, ("Completed", "Cancelled") if cancel else ("Completed",), as_json)


def _names(told: dict[str, Any]) -> tuple[str, str, int]:
    """Read (production variant, shadow variant, sampling percentage)."""
    mode = told["ShadowModeConfig"]
    (shadow,) = mode["ShadowModelVariants"]
    return mode["SourceModelVariantName"], shadow["ShadowModelVariantName"], shadow["SamplingPercentage"]


def _report(client: Any, name: str, wait: bool, wanted: tuple[str, ...], as_json: bool) -> None:
    """Say what became of a test, in words or as it is described; wait for it if asked.

    Raises:
        click.ClickException: not what was wanted (exit code 1).
    """
    while True:
        told = _answered(lambda: client.describe_inference_experiment(Name=name))
        if not wait or told["Status"] in SETTLED:
            break
        time.sleep(POLL_S)
    line = f"{name} is {told['Status']}. {told.get('StatusReason', '')}".rstrip()
    good = not wait or told["Status"] in wanted
    if as_json:
        told.pop("ResponseMetadata", None)
        click.echo(json.dumps(told, indent=2, default=shadow_report.as_text))
    elif good:
        click.echo(line)
    if not good:
        raise click.ClickException(line)

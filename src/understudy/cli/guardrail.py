"""``understudy guardrail lint``: will the alarms that guard an endpoint's updates do so?"""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import call_server, endpoint_path

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.group("guardrail", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check the alarms that roll updates back.

    \b
    Examples:
      understudy guardrail lint --endpoint churn
      understudy guardrail lint --endpoint churn --deployment-config canary.json --config churn-2
    """


@command.command("lint")
@click.option("--endpoint", required=True, help="Name of the endpoint.")
@click.option(
    "--deployment-config",
    "deployment_file",
    type=click.File(encoding="utf-8"),
    help="JSON file with the DeploymentConfig to judge.  [default: that of the update under way or the last]",
)
@click.option("--config", "config_name", help="EndpointConfig that the update would bring.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_dir_option
def lint(
    endpoint: str,
    deployment_file: TextIO | None,
    config_name: str | None,
    as_json: bool,
    data_dir: str | None,
) -> None:
    """Judge alarms on the endpoint's own traffic: chance of a false rollback, smallest regression caught.

    Exit code 1 means that a guardrail is broken (a finding of severity "error").

    \b
    Examples:
      understudy guardrail lint --endpoint churn
      understudy guardrail lint --endpoint churn --deployment-config canary.json --config churn-2
      understudy guardrail lint --endpoint churn --json | jq '.alarms[].findings[].code'
    """
    body: dict[str, Any] = {}
    if deployment_file is not None:
        body["deployment_config"] = _document(deployment_file)
    if config_name is not None:
        body["endpoint_config_name"] = config_name
    server = connect(data_dir)
    path = endpoint_path(endpoint, "guardrails")
    report = call_server(server, "POST" if body else "GET", path, body=body or None)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    sys.exit(1 if report["worst"] == "error" else 0)


def _document(file: TextIO) -> Any:
    try:
        document = json.load(file)
    except ValueError as error:
        raise click.ClickException(f"{file.name} is not JSON: {error}") from error
    # The file may be what UpdateEndpoint takes as a whole.
    if isinstance(document, dict) and isinstance(document.get("DeploymentConfig"), dict):
        return document["DeploymentConfig"]
    return document


def _show(report: dict[str, Any]) -> None:
    steps = ", ".join(f"{step['share']:.0%} for {step['duration_s']:g} s" for step in report["steps"])
    click.echo(f"Endpoint {report['endpoint']}: {steps or 'no deployment steps known'}")
    for variant, per_minute in report["requests_per_minute"].items():
        click.echo(f"  {variant}: {per_minute:g} requests per minute")
    if not report["alarms"]:
        click.echo("No alarm guards its updates: nothing would be rolled back. Name some in")
        click.echo("DeploymentConfig.AutoRollbackConfiguration.Alarms.")
    for alarm in report["alarms"]:
        click.echo()
        click.echo(click.style(alarm["name"], bold=True) + f"  {alarm['state'] or 'is not there'}")
        if alarm["false_alarm_probability"] is not None:
            click.echo(
                f"  rolls an unchanged model back in {alarm['false_alarm_probability']:.2%} of updates"
            )
        if alarm["smallest_regression"] is not None:
            click.echo(f"  smallest regression it catches with 90 %: {_regression(alarm)}")
        for finding in alarm["findings"]:
            mark = click.style(finding["severity"], fg=_COLOURS[finding["severity"]])
            click.echo(f"  {mark} {finding['code']}: {finding['what']}")
            click.echo(f"    {finding['why']}")
            click.echo(f"    {finding['suggestion']}")
        better = next((one["call"] for one in alarm["findings"] if one["call"]), None)
        if better is not None:
            click.echo("  a better one, for `aws cloudwatch put-metric-alarm --cli-input-json`:")
            click.echo(f"    {json.dumps(better)}")


def _regression(alarm: dict[str, Any]) -> str:
    if alarm["regression_unit"] == "rate":
        return f"{alarm['smallest_regression']:.2%} errors"
    return f"{alarm['smallest_regression']:.2f} times as slow"

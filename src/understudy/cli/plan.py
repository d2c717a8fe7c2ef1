"""``understudy plan``: how much traffic, or time, a proof takes, before a test begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import call_server, endpoint_path
from understudy.core.policies import PolicyError, read_policy


@click.command("plan")
@click.argument("endpoint")
@data_dir_option
@click.option("--kind", type=click.Choice(["deploy", "experiment"]), default="deploy", show_default=True)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML or JSON.  [default: the endpoint's, else the kind's]",
)
@click.option(
    "--rate", "rates", metavar="METRIC=RATE", multiple=True, help="Of the control, e.g. conversion=0.1."
)
@click.option("--requests-per-minute", type=float, help="Of both arms.  [default: what the endpoint has]")
@click.option("--share", type=float, help="Of the treatment.  [default: 0.1 of a deployment, else 0.5]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    endpoint: str,
    data_dir: str | None,
    kind: str,
    policy: Path | None,
    rates: tuple[str, ...],
    requests_per_minute: float | None,
    share: float | None,
    as_json: bool,
) -> None:
    """Say how many requests, and how long, it takes to ship, to roll back and to prove a gain.

    \b
    Examples:
      understudy plan churn --share 0.1
      understudy plan churn --kind experiment --rate conversion=0.12 --requests-per-minute 600
    """
    body: dict[str, Any] = {"kind": kind}
    if policy is not None:
        try:
            body["policy"] = read_policy(policy.read_text(encoding="utf-8")).to_json()
        except (PolicyError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{policy}: {error}") from error
    body["rates"] = dict(_rate(one) for one in rates)
    if requests_per_minute is not None:
        body["requests_per_minute"] = requests_per_minute
    if share is not None:
        body["share"] = share
    told = call_server(connect(data_dir), "POST", endpoint_path(endpoint, "plan"), body=body)
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show(told)


def _rate(text: str) -> tuple[str, float]:
    metric, _, value = text.partition("=")
    try:
        return metric, float(value)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write METRIC=RATE, e.g. conversion=0.1.") from error


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    traffic = told["requests_per_minute"]
    console.print(
        f"Policy {told['policy']}, {told['share']:.0%} of the traffic to the treatment"
        + ("" if traffic is None else f", {traffic:,.0f} requests a minute")
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("METRIC", "TO", "IF THE RATIO IS", "REQUESTS (HALF OF TESTS)", "(4 OF 5)", "MINUTES"):
        table.add_column(column, justify="left" if column in ("METRIC", "TO") else "right")
    for need in told["needs"]:
        table.add_row(
            need["metric"],
            need["question"],
            f"{need['truth']:.3g}",
            _count(need["requests"]),
            _count(need["requests_p80"]),
            "-" if need["minutes"] is None else f"{need['minutes']:,.1f} to {need['minutes_p80']:,.1f}",
        )
    console.print(table)
    if not told["needs"]:
        console.print("No metric of the policy has a known rate: give it with --rate METRIC=RATE.")


def _count(value: int | None) -> str:
    return "never" if value is None else f"{value:,}"

"""``understudy verdict``: promote, keep, hold or roll back, with the evidence; exit codes for CI."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import call_server, endpoint_path
from understudy.core.policies import PolicyError, read_policy
from understudy.sdk.servers import Server

EXIT_CODES = {"PROMOTE": 0, "KEEP": 10, "HOLD": 11, "ROLLBACK": 12, "INVALID": 13}
LOOK_EVERY_S = 1.0


class _VerdictGroup(click.Group):
    """``verdict E`` without a word between is ``verdict show E``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("verdict", cls=_VerdictGroup)
def command() -> None:
    """Say whether to promote, keep, hold or roll back, with evidence that is valid at every look.

    `understudy verdict ENDPOINT` is short for `verdict show ENDPOINT`.

    \b
    Exit codes: 0 PROMOTE, 10 KEEP, 11 HOLD, 12 ROLLBACK, 13 INVALID; 1 and 2 are errors.

    \b
    Examples:
      understudy verdict churn
      understudy verdict churn --watch
      understudy verdict churn --control Variant1 --treatment Variant2 --policy policy.toml --json
      understudy verdict churn --control prod --treatment shadow
      understudy verdict policy churn policy.toml
      understudy verdict replay 5f0c1f0a9d1b4c6e8f21
    """


@command.command("show")
@click.argument("endpoint")
@data_dir_option
@click.option("--control", metavar="NAME", help="Variant (or configuration) that is the control.")
@click.option("--treatment", metavar="NAME", help="Variant (or configuration) on trial.")
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Decide under this TOML or JSON policy, from everything that was logged.",
)
@click.option("--watch", is_flag=True, help="Wait until it is decided: anything but HOLD.")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to watch at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    endpoint: str,
    data_dir: str | None,
    control: str | None,
    treatment: str | None,
    policy: Path | None,
    watch: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Show the verdict; its exit code says which."""
    server = connect(data_dir)
    names = {"control": control, "treatment": treatment}
    asked = None if policy is None else _read(policy)
    until_s = None if timeout is None else time.monotonic() + timeout
    shown = ""
    while True:
        told = _ask(server, endpoint, names, asked)
        if watch and not as_json and told["reason"] != shown:
            shown = told["reason"]
            click.echo(f"{told['verdict']}: {shown}", err=True)
        decided = told["verdict"] != "HOLD" or told["ended"]
        if not watch or decided or (until_s is not None and time.monotonic() >= until_s):
            break
        time.sleep(LOOK_EVERY_S)
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show(told)
    sys.exit(EXIT_CODES[told["verdict"]])


def _ask(
    server: Server, endpoint: str, names: dict[str, str | None], policy: dict[str, Any] | None
) -> dict[str, Any]:
    path = endpoint_path(endpoint, "verdict")
    if policy is None:
        return call_server(server, "GET", path, query=names)
    body = {name: value for name, value in names.items() if value is not None}
    return call_server(server, "POST", path, body={**body, "policy": policy})


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_policy(path.read_text(encoding="utf-8")).to_json()
    except (PolicyError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: {error}") from error


@command.command("policy")
@click.argument("endpoint")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option
@click.option("--remove", is_flag=True, help="Return to the defaults.")
def policy(endpoint: str, file: Path | None, data_dir: str | None, remove: bool) -> None:
    """Show an endpoint's policy, or set it from a TOML or JSON FILE.

    Set it before the test: another policy begins its evidence anew.
    """
    if remove and file is not None:
        raise click.UsageError("Name a FILE, or --remove.")
    server, path = connect(data_dir), endpoint_path(endpoint, "policy")
    if remove:
        call_server(server, "DELETE", path)
    elif file is not None:
        call_server(server, "PUT", path, body=_read(file))
    click.echo(json.dumps(call_server(server, "GET", path), indent=2))


@command.command("replay")
@click.argument("replay_id")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with everything it was decided from.")
def replay(replay_id: str, data_dir: str | None, as_json: bool) -> None:
    """Decide a verdict again from the counts that were stored, to the same bits."""
    told = call_server(connect(data_dir), "GET", f"/understudy/v1/verdicts/{quote(replay_id, safe='')}")
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show(told)
        click.echo("identical" if told["identical"] else "NOT identical to what was decided")
    sys.exit(0 if told["identical"] else 1)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if "control" in told:
        control, treatment = told["control"], told["treatment"]
        if told["kind"] == "rollout":
            console.print(f"{treatment['variant']}: {treatment['config']} against {control['config']}")
        else:
            console.print(f"{treatment['variant']} against {control['variant']}")
    console.print(f"{told['verdict']}: {told['reason']}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("METRIC", "EFFECT", "95% AT EVERY LOOK", "QUESTION", "EVIDENCE", "NEEDS"):
        table.add_column(column, justify="left" if column in ("METRIC", "QUESTION") else "right")
    for row in told["evidence"]:
        interval = row["interval"]
        first = [row["metric"], _number(row["effect"])]
        first.append("-" if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]")
        for question in ("harm", "noninf", "superior", "no_gain"):
            if f"E_{question}" in row:
                table.add_row(
                    *first,
                    question.replace("_", " "),
                    _number(row[f"max_E_{question}"]),
                    _number(row[f"needs_{question}"]),
                )
                first = ["", "", ""]
    console.print(table)
    for what, text in told["would_change"].items():
        console.print(f"{what.replace('_', ' ')}: {text}")
    validity = told["validity"]
    if validity["excluded_targeted"]:
        console.print(f"{validity['excluded_targeted']:,} requests that named their variant are not counted")
    if validity["label_maturity"] is not None:
        of = f"the {validity['label_exposures']:,}" if validity.get("label_exposures") else "the"
        console.print(f"{validity['label_maturity']:.1%} of {of} mature requests have their label")
    shadow = told.get("shadow")
    if shadow is not None and shadow["pairs"]:
        console.print(
            f"{shadow['agreeing']:,} of {shadow['pairs']:,} pairs agree; "
            f"{shadow['unlabelled_disagreements']:,} that do not have no label"
        )
    for hint in told.get("hints", ()):
        console.print(f"hint: {hint}")
    console.print(f"understudy {told['replay']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

"""``understudy labels``: what became of an endpoint's requests, from a CSV or an S3 prefix.

A client like any other: rows of a CSV go to the server in batches, which may be sent again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import Server

BATCH = 5000
_ID_KINDS = {"inference": "inference_id", "event": "event_id", "unit": "unit"}


@click.group("labels")
def command() -> None:
    """Tell a server what became of an endpoint's requests, so that models can be judged.

    \b
    Examples:
      understudy labels import churn labels.csv --id-column id --label-column churned
      understudy labels source churn s3://bucket/ground-truth/
      understudy labels status churn
    """


@command.command("import")
@click.argument("endpoint")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option
@click.option("--id-column", required=True, metavar="NAME", help="Column of the requests' ids.")
@click.option("--label-column", required=True, metavar="NAME", help="Column of the labels or values.")
@click.option("--time-column", metavar="NAME", help="Column of when it came true.  [default: now]")
@click.option("--metric", metavar="NAME", help="The values are this metric's, not labels.")
@click.option(
    "--id",
    "id_kind",
    type=click.Choice(list(_ID_KINDS)),
    default="inference",
    show_default=True,
    help="What the ids are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(
    endpoint: str,
    file: Path,
    data_dir: str | None,
    id_column: str,
    label_column: str,
    time_column: str | None,
    metric: str | None,
    id_kind: str,
    as_json: bool,
) -> None:
    """Report the rows of a CSV with a header line.

    Rows without an id or label are left out and counted.  A file may be imported again: what was reported
    before is a duplicate, another label for the same request a conflict; the first one stands.
    """
    server = connect(data_dir)
    told: dict[str, Any] = {"accepted": 0, "duplicates": 0, "conflicting": 0, "left_out": 0, "conflicts": []}
    columns = [id_column, label_column, *([time_column] if time_column else [])]
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        try:
            for name in columns:
                if name not in (rows.fieldnames or ()):
                    there_are = ", ".join(rows.fieldnames or ()) or "none"
                    raise click.ClickException(f"{file} has no column {name!r}; there are: {there_are}.")
            outcomes = _outcomes(rows, told, _ID_KINDS[id_kind], id_column, label_column, time_column, metric)
            first = rows.line_num + 1
            while batch := list(islice(outcomes, BATCH)):
                _report(server, endpoint, batch, told, f"lines {first} to {rows.line_num} of {file}")
                first = rows.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise click.ClickException(
                f"{file} can't be read as CSV in UTF-8 after line {rows.line_num}: {error}."
            ) from error
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(
        f"{told['accepted']:,} accepted, {told['duplicates']:,} duplicates, "
        f"{told['conflicting']:,} conflicting"
        + (f", {told['left_out']:,} rows without id or label left out" if told["left_out"] else "")
    )
    for conflict in told["conflicts"][:5]:
        click.echo(f"  {conflict['id']}: {conflict['stands']} stands, not {conflict['reported']}")


def _report(
    server: Server, endpoint: str, batch: list[dict[str, Any]], told: dict[str, Any], place: str
) -> None:
    """Send a batch, and add what became of it."""
    try:
        answer = call_server(server, "POST", endpoint_path(endpoint, "outcomes"), body={"outcomes": batch})
    except click.ClickException as error:
        raise click.ClickException(f"{place} were not reported: {error.message}") from error
    for name in ("accepted", "duplicates", "conflicting"):
        told[name] += answer[name]
    told["conflicts"] = (told["conflicts"] + answer["conflicts"])[:20]


def _outcomes(
    rows: csv.DictReader[str],
    told: dict[str, Any],
    id_member: str,
    id_column: str,
    label_column: str,
    time_column: str | None,
    metric: str | None,
) -> Iterator[dict[str, Any]]:
    for row in rows:
        id_, label = (row[id_column] or "").strip(), (row[label_column] or "").strip()
        if not id_ or not label:
            told["left_out"] += 1
            continue
        outcome: dict[str, Any] = {id_member: id_}
        outcome |= {"label": label} if metric is None else {"metric": metric, "value": label}
        if time_column and row[time_column]:
            outcome["at"] = _number_or_text(row[time_column])
        yield outcome


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@command.command("source")
@click.argument("endpoint")
@click.argument("uri", required=False, metavar="[S3URI]")
@data_dir_option
@click.option("--attribute", metavar="NAME", help="Member of JSON labels.  [default: label, or the only one]")
@click.option("--remove", is_flag=True, help="Read no more labels; those that were read stay.")
def source(endpoint: str, uri: str | None, data_dir: str | None, attribute: str | None, remove: bool) -> None:
    """Read SageMaker's ground truth (JSON Lines) below an S3 prefix, now and as files are added."""
    if remove == (uri is not None):
        raise click.UsageError("Name an S3URI, or --remove.")
    server = connect(data_dir)
    path = endpoint_path(endpoint, "ground-truth")
    if remove:
        call_server(server, "DELETE", path)
        return
    call_server(server, "PUT", path, body={"s3_uri": uri, "attribute": attribute})
    click.echo(f"Reading {uri}; `understudy labels status {endpoint}` tells how far.")


@command.command("status")
@click.argument("endpoint")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(endpoint: str, data_dir: str | None, as_json: bool) -> None:
    """Show how many labels and outcomes there are, duplicates and conflicts."""
    told = call_server(connect(data_dir), "GET", endpoint_path(endpoint, "outcomes"))
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    _show(told)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not told["outcomes"]:
        click.echo("No labels yet: `understudy labels import` or `labels source` bring them.")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("METRIC", "OF", "KEPT", "DUPLICATES", "CONFLICTING"):
            table.add_column(column, justify="left" if column in ("METRIC", "OF") else "right")
        for one in told["outcomes"]:
            of = "units" if one["subject"] == "unit" else "requests"
            counts = (f"{one[name]:,}" for name in ("kept", "duplicates", "conflicting"))
            table.add_row(one["metric"], of, *counts)
        Console(highlight=False, markup=False).print(table)
    truth = told["ground_truth"]
    if truth is not None:
        click.echo(
            f"{truth['s3_uri']}: {truth['lines']:,} lines of {truth['files']:,} files read, "
            f"{truth['bad_lines']:,} of them no labels"
        )
        for problem in truth["problems"]:
            click.echo(f"  {problem}")

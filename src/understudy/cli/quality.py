"""``understudy quality``: how right each variant of an endpoint is on its labelled requests."""

from __future__ import annotations

import json
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.logs import parse_duration_s
from understudy.cli.own_calls import call_server, endpoint_path


@click.command("quality")
@click.argument("endpoint")
@data_dir_option
@click.option("--variant", metavar="NAME", help="Only this one.")
@click.option(
    "--window", metavar="TIME", default="1d", show_default=True, help="Requests of the last 10m, 2h, 7d."
)
@click.option(
    "--label-window",
    metavar="TIME",
    help="Requests count when they are older than this: time for their labels to come.  [default: all count]",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "binary", "classes", "numbers"]),
    default="auto",
    show_default=True,
    help="What is predicted.",
)
@click.option("--threshold", type=float, help="A score from it on is positive.  [default: 0.5]")
@click.option("--positive", metavar="LABEL", help="The positive one of two labels.  [default: 1]")
@click.option("--field", metavar="NAME", help="Where the prediction is: a JSON member, or 'column 2'.")
@click.option("--by", metavar="NAME", help="Slice by a feature of the request: 'column 3', a JSON member.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    endpoint: str,
    data_dir: str | None,
    variant: str | None,
    window: str,
    label_window: str | None,
    kind: str,
    threshold: float | None,
    positive: str | None,
    field: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Show accuracy, precision, recall, F1, AUC and their kin, each with its interval.

    Needs data capture of answers, and labels (`understudy labels`).  The intervals are valid however often
    you look.

    \b
    Examples:
      understudy quality churn
      understudy quality churn --by "column 1" --threshold 0.7 --json
    """
    told = call_server(
        connect(data_dir),
        "GET",
        endpoint_path(endpoint, "quality"),
        query={
            "variant": variant,
            "window_s": parse_duration_s(window),
            "label_window_s": None if label_window is None else parse_duration_s(label_window),
            "kind": kind,
            "threshold": threshold,
            "positive": positive,
            "field": field,
            "by": by,
        },
    )
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for one in told["variants"]:
        exposures = one["exposures"]
        maturity = exposures["label_maturity"]
        console.print(
            f"{one['variant']}{' (shadow)' if one['shadow'] else ''}: {exposures['total']:,} requests, "
            f"{exposures['labelled']:,} labelled"
            + ("" if maturity is None else f" ({maturity:.1%} of {exposures['mature']:,} that are mature)")
        )
        if exposures["unread"]:
            console.print(f"  {exposures['unread']:,} answers do not fit their labels; --field may help")
        if not one["examples"]:
            console.print("  nothing to measure yet: `understudy labels status` tells what there is")
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "MEASURE", "VALUE", "INTERVAL", "OF"):
            table.add_column(column, justify="left" if column in ("", "MEASURE") else "right")
        for name, measure in one["metrics"].items():
            table.add_row("", name, *_cells(measure))
        for part in one.get("slices", []):
            for name, measure in part["metrics"].items():
                table.add_row(str(part["slice"]), name, *_cells(measure))
        console.print(table)
        if any(measure.get("approximate") for measure in one["metrics"].values()):
            console.print("  ~ too few examples for this interval to hold what it promises")
    if told["unreadable_lines"]:
        console.print(f"{told['unreadable_lines']:,} lines are no captured records and were left out")


def _cells(measure: dict[str, Any]) -> tuple[str, str, str]:
    value = measure["value"]
    if value is None:
        return "not defined", "-", f"{measure['count']:,}"
    about = "~" if measure.get("approximate") else ""
    return f"{value:.4f}", f"{about}[{measure['low']:.4f}, {measure['high']:.4f}]", f"{measure['count']:,}"

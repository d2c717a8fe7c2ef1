"""How ``understudy compare`` shows its report to a person.  Main function: :func:`show_report`."""

from __future__ import annotations

from typing import Any

import click


def show_report(report: dict[str, Any], match: str) -> None:
    """Print a report.

    Args:
        report: ``analysis.differences.Comparison.report`` with ``baseline``, ``candidate`` and ``metrics``.
        match: By what records were matched, for what to do when none were.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    print_ = console.print
    print_(f"[bold]{report['candidate']}[/bold] against [bold]{report['baseline']}[/bold]", markup=True)
    if not report["pairs"]:
        others = ", ".join(other for other in ("event", "inference", "input") if other != match)
        print_(
            f"No request has answers of both: {report['only_baseline']} of {report['baseline']} alone, "
            f"{report['only_candidate']} of {report['candidate']} alone. Wait for requests (records appear "
            f"within 10 s), widen --window, or match by something else (--match {others}).",
            markup=False,
        )
        return
    differing, pairs = report["differing"], report["pairs"]
    print_(f"{pairs:,} requests with both answers; {differing:,} differ ({differing / pairs:.2%})")
    noise = report["noise"]
    if noise["pairs"]:
        print_(
            f"{report['differing_above_noise']:,} differ in fields above the noise, learned from "
            f"{noise['pairs']:,} {noise['measured_by']}"
        )
    else:
        print_("Noise was not measured: every difference counts (--noise VARIANT measures it)")
    if report["tolerance"]["threshold"] is not None:
        print_(f"{report['class_flips']:,} class flips at {report['tolerance']['threshold']:g}")
    alone = report["only_baseline"], report["only_candidate"]
    if any(alone):
        print_(
            f"{alone[0]:,} answered by {report['baseline']} alone, "
            f"{alone[1]:,} by {report['candidate']} alone"
        )
    if report["unreadable_lines"]:
        print_(f"{report['unreadable_lines']:,} lines are no captured records and were left out")
    _show_fields(console, report)
    _show_metrics(console, report)
    _show_examples(report)


def _show_fields(console: Any, report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not report["fields"]:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("FIELD", "DIFFER", "RATE", "NOISE", "ABOVE NOISE", "KINDS", "MEAN GAP", "MAX GAP"):
        table.add_column(column, justify="left" if column in ("FIELD", "KINDS") else "right")
    for row in report["fields"]:
        above = {None: "-", True: "yes", False: "not shown"}[row["above_noise"]]
        table.add_row(
            escape(row["field"]),
            f"{row['differing']:,}",
            f"{row['rate']:.2%}",
            "-" if row["noise_rate"] is None else f"{row['noise_rate']:.2%}",
            above,
            ", ".join(f"{kind} {count:,}" for kind, count in row["kinds"].items()),
            "-" if row["mean_gap"] is None else f"{row['mean_gap']:.4g}",
            "-" if row["max_gap"] is None else f"{row['max_gap']:.4g}",
        )
    console.print()
    console.print(table)


def _show_metrics(console: Any, report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if "metrics" not in report:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("VARIANT", "REQUESTS", "P50 MS", "P99 MS", "MAX MS", "4XX", "5XX"):
        table.add_column(column, justify="left" if column == "VARIANT" else "right")
    for name, one in report["metrics"].items():
        latencies = [one.get(key) for key in ("p50_us", "p99_us", "max_us")]
        shown = ["-" if value is None else f"{value / 1000:.2f}" for value in latencies]
        table.add_row(
            escape(name), f"{one['requests']:,}", *shown, f"{one['errors_4xx']:,}", f"{one['errors_5xx']:,}"
        )
    console.print()
    console.print(table)


def _show_examples(report: dict[str, Any]) -> None:
    """Print both answers; plainly, since they are what some model wrote."""
    for example in report["examples"]:
        who = example["event_id"]
        if example["inference_id"]:
            who += f" ({example['inference_id']})"
        click.echo(f"\n{who}: {example['field']} {example['kind']}: ", nl=False)
        click.echo(f"{example['baseline']} -> {example['candidate']}")
        if example["input"] is not None:
            click.echo(f"  request   {example['input'].rstrip()}")
        click.echo(f"  production {example['baseline_answer'].rstrip()}")
        click.echo(f"  candidate  {example['candidate_answer'].rstrip()}")

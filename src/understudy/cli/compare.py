"""``understudy compare``: a candidate's captured answers held against production's.

A client like any other: the endpoint's capture is found by DescribeEndpoint, its files are read over S3,
latencies and errors over CloudWatch.  Two capture files, ours or AWS's, can be compared without any server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click

from understudy.analysis.differences import Comparison
from understudy.analysis.fields import Tolerance
from understudy.capture.comparing import KEYS, SLACK_S, Compared, compare
from understudy.capture.reader import Captured, read_file, read_lines
from understudy.cli.captured import EndpointSource
from understudy.cli.compare_report import show_report
from understudy.cli.connection import connect, data_dir_option
from understudy.cli.logs import parse_duration_s
from understudy.core.routing import noise_name


@click.command("compare")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option
@click.option("--endpoint", metavar="NAME", help="Compare what was captured of this endpoint.")
@click.option(
    "--variants",
    metavar="A,B",
    help="Production's variant and the candidate.  [default: the only one of each kind]",
)
@click.option(
    "--noise",
    metavar="NAME",
    help="Who answered with production's own model: learn noise from it.  [default: second answers, if any]",
)
@click.option(
    "--window", metavar="TIME", default="1h", show_default=True, help="The last 30s, 10m, 2h or 1d."
)
@click.option("--destination", metavar="S3URI", help="Of the capture, when the endpoint is gone.")
@click.option(
    "--match",
    type=click.Choice(list(KEYS)),
    default="event",
    show_default=True,
    help="What two records of one request have in common.",
)
@click.option("--absolute", type=click.FloatRange(0), default=1e-9, show_default=True, help="Tolerance.")
@click.option(
    "--relative", type=click.FloatRange(0), default=1e-6, show_default=True, help="Tolerance, of the larger."
)
@click.option("--threshold", type=float, help="Report scores on different sides of it as class flips.")
@click.option("--threshold-field", metavar="PATTERN", default="*", help="Fields that --threshold is about.")
@click.option("--ignore-order", is_flag=True, help="Compare lists as if sorted.")
@click.option(
    "--ignore", "ignored", metavar="PATTERN", multiple=True, help="Fields not to compare; repeatable."
)
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Fields to show.")
@click.option(
    "--examples", type=click.IntRange(0), default=3, show_default=True, help="Worst examples to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    data_dir: str | None,
    endpoint: str | None,
    variants: str | None,
    noise: str | None,
    window: str,
    destination: str | None,
    match: str,
    absolute: float,
    relative: float,
    threshold: float | None,
    threshold_field: str,
    ignore_order: bool,
    ignored: tuple[str, ...],
    top: int,
    examples: int,
    as_json: bool,
) -> None:
    """Compare a candidate's answers with production's, request by request.

    Needs an endpoint with data capture on, or two capture FILES (production's, the candidate's; a third
    one is production's second answers to the same requests, for the noise).

    \b
    Examples:
      understudy compare --endpoint churn
      understudy compare --endpoint churn --variants AllTraffic,Shadow-01 --window 24h --threshold 0.5
      understudy compare production.jsonl candidate.jsonl --match inference --json
    """
    tolerance = Tolerance(absolute, relative, threshold, threshold_field, ignore_order, ignored)
    bad: list[str] = []
    metrics: dict[str, Any] | None = None
    if endpoint is not None and not files:
        server = connect(data_dir)
        end_s = server.now_s()
        start_s = end_s - parse_duration_s(window)
        source = EndpointSource(server, endpoint, destination)
        names = source.variants(variants)
        streams: tuple[Iterator[Captured], ...] = tuple(
            source.read(name, start_s, end_s, bad) for name in names
        )
        again = source.read(noise or noise_name(names[0]), start_s, end_s, bad)
        first = next(again, None)
        if noise is not None or first is not None:
            streams = (*streams, chain([] if first is None else [first], again))
        compared = Compared(names, streams, SLACK_S)
        metrics = {name: source.metrics(name, start_s, end_s) for name in names}
    elif endpoint is None and len(files) in (2, 3):
        streams = tuple(read_lines(read_file(path), name=str(path), on_bad=bad.append) for path in files)
        compared = Compared((str(files[0]), str(files[1])), streams, float("inf"))
    else:
        raise click.UsageError("Name an --endpoint, or two files: production's and the candidate's.")
    comparison = compare(compared, Comparison(tolerance), match)
    report: dict[str, Any] = {"baseline": compared.names[0], "candidate": compared.names[1]}
    report |= comparison.report(top, examples)
    report["unreadable_lines"] = len(bad)
    if metrics is not None:
        report["metrics"] = metrics
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for problem in bad[:3]:
            click.echo(f"Warning: {problem}", err=True)
        show_report(report, match)

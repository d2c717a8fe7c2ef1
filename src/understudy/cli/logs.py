"""``understudy logs``: what the models of an endpoint print, over the CloudWatch Logs API."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import click

from understudy.cli.connection import boto3_client, connect, data_dir_option
from understudy.core.names import log_group

POLL_S = 0.5
OVERLAP_MS = 5_000  # lines of one moment may come late; event ids tell which were shown
REMEMBERED = 100_000
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("logs")
@click.argument("endpoint")
@data_dir_option
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@click.option("--variant", metavar="NAME", help="Only this variant.")
@click.option("--instance", metavar="ID", help="Only the stream whose name ends in this.")
@click.option("--since", metavar="TIME", help="Only lines of the last 30s, 10m, 2h or 1d.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def command(
    endpoint: str,
    data_dir: str | None,
    follow: bool,
    variant: str | None,
    instance: str | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Show what the models behind ENDPOINT print, and why one failed to load.

    \b
    Examples:
      understudy logs churn
      understudy logs churn -f --variant Variant2
      understudy logs churn --since 10m --json
    """
    server = connect(data_dir)
    since_ms = None if since is None else int((server.now_s() - parse_duration_s(since)) * 1000)
    client = boto3_client(server, "logs")
    events = _events(client, log_group(endpoint), variant, since_ms, follow)
    try:
        for event in events:
            stream = event["logStreamName"]
            if instance is not None and not stream.endswith(instance):
                continue
            click.echo(
                _as_json(event) if as_json else f"{_clock(event['timestamp'])} {stream} {event['message']}"
            )
    except client.exceptions.ResourceNotFoundException as error:
        raise click.ClickException(
            f"Endpoint {endpoint} has no logs: no worker of it has started. "
            "`understudy status` lists endpoints."
        ) from error
    except KeyboardInterrupt:
        return


def parse_duration_s(text: str, option: str = "--since") -> int:
    """Read a duration.

    Args:
        option: What it was given for.
    Raises:
        click.BadParameter: it is none (exit code 2).

    >>> parse_duration_s("90s"), parse_duration_s("10m"), parse_duration_s("1d")
    (90, 600, 86400)
    """
    match = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write 30s, 10m, 2h or 1d.", param_hint=option)
    return int(match[1]) * UNITS_S[match[2]]


def _events(
    client: Any, group: str, variant: str | None, since_ms: int | None, follow: bool
) -> Iterator[dict[str, Any]]:
    """Yield each event once, in the order the server gives them."""
    request: dict[str, Any] = {"logGroupName": group}
    if variant is not None:
        request["logStreamNamePrefix"] = f"{variant}/"
    if since_ms is not None:
        request["startTime"] = max(0, since_ms)
    shown: set[str] = set()
    order: deque[str] = deque()
    newest_ms = 0
    while True:
        try:
            for page in client.get_paginator("filter_log_events").paginate(**request):
                for event in page["events"]:
                    if event["eventId"] in shown:
                        continue
                    shown.add(event["eventId"])
                    order.append(event["eventId"])
                    newest_ms = max(newest_ms, event["timestamp"])
                    yield event
        except client.exceptions.ResourceNotFoundException:
            if not follow:
                raise
        if not follow:
            return
        while len(order) > REMEMBERED:
            shown.discard(order.popleft())
        if newest_ms:
            request["startTime"] = max(request.get("startTime", 0), newest_ms - OVERLAP_MS)
        time.sleep(POLL_S)


def _clock(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1000)) + f".{at_ms % 1000:03d}Z"


def _as_json(event: dict[str, Any]) -> str:
    return json.dumps(
        {"timestamp_ms": event["timestamp"], "stream": event["logStreamName"], "message": event["message"]}
    )

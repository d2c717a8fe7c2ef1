"""``understudy events``: the audit trail of an endpoint: what changed, when, who asked, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import Server

POLL_S = 0.5
PAGE = 500


@click.command("events")
@click.argument("endpoint")
@data_dir_option
@click.option("-f", "--follow", is_flag=True, help="Go on as events come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def command(endpoint: str, data_dir: str | None, follow: bool, as_json: bool) -> None:
    """Show what happened to ENDPOINT, oldest first; that of a deleted endpoint stays.

    \b
    Examples:
      understudy events churn
      understudy events churn --json | jq 'select(.kind == "TrafficShifting")'
    """
    server = connect(data_dir)
    try:
        for event in _events(server, endpoint, follow):
            click.echo(json.dumps(event) if as_json else line_of(event))
    except KeyboardInterrupt:
        return


def _events(server: Server, endpoint: str, follow: bool) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        query = {"after": after, "limit": PAGE}
        page = call_server(server, "GET", endpoint_path(endpoint, "events"), query=query)["events"]
        yield from page
        if page:
            after = page[-1]["sequence"]
        if len(page) < PAGE:
            if not follow:
                return
            time.sleep(POLL_S)


def line_of(event: dict[str, Any]) -> str:
    """Write one event as one line: when, what, from and to which configuration, why, who, further facts."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(event["at_s"]))
    parts = [f"{at}.{int(event['at_s'] * 1000) % 1000:03d}Z", event["kind"]]
    if isinstance(event["from"], str) and isinstance(event["to"], str):
        parts.append(f"{event['from']} -> {event['to']}")
    elif event["from"] is not None or event["to"] is not None:
        parts.append(f"{json.dumps(event['from'])} -> {json.dumps(event['to'])}")
    if event["reason"]:
        parts.append(f"({event['reason']})")
    if event["detail"]:
        parts.append(" ".join(f"{name}={_short(value)}" for name, value in event["detail"].items()))
    parts.append(f"by {event['by']}")
    return "  ".join(parts)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

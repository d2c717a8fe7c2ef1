"""``understudy rollout``: watch an update of an endpoint take the traffic, or call it back.

Owns nothing but words; what it shows and does are calls of ``/understudy/v1`` (docs/rest.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.cli.own_calls import Refused, Unreachable, call_server, endpoint_path
from understudy.sdk.servers import Server

POLL_S = 0.25
PATIENCE_S = 30.0  # without any answer
BAR_WIDTH = 24
_PHASES = {
    "preparing": "instances come up",
    "shifting": "routers take the step",
    "baking": "baking",
    "waiting": "old fleet stands by",
    "returning": "traffic returns",
    "restoring": "old instances come up",
    "draining": "unused instances end",
}


@click.group("rollout", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Watch an update of an endpoint, or roll it back.

    \b
    Examples:
      understudy rollout watch churn
      understudy rollout rollback churn --reason "too slow for the night batch"
    """


@command.command("watch")
@click.argument("endpoint")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, at every change.")
def watch(endpoint: str, data_dir: str | None, as_json: bool) -> None:
    """Show each step of the update of ENDPOINT until it is over.

    Ends with code 0 when the endpoint serves what was asked for, 1 when it was rolled back or failed.

    \b
    Examples:
      understudy rollout watch churn
      understudy rollout watch churn --json | jq .rollout.share_percent
    """
    server = connect(data_dir)
    last: dict[str, Any] = {}
    try:
        if as_json:
            for last in _changes(_told(server, endpoint)):
                click.echo(json.dumps(last))
        else:
            last = _show(server, endpoint)
    except KeyboardInterrupt:
        return
    if last.get("failure_reason") or last.get("status") not in ("InService", None):
        raise SystemExit(1)


def _told(server: Server, endpoint: str) -> Iterator[dict[str, Any]]:
    """Yield the state of a rollout again and again; the last one is that of the endpoint at rest.

    A server whose controller starts again is waited for: the rollout goes on, too.
    """
    answered_s = time.monotonic()
    while True:
        try:
            state = call_server(server, "GET", endpoint_path(endpoint, "rollout"))
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and error.status < 500:
                raise
            if time.monotonic() - answered_s > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        answered_s = time.monotonic()
        yield state
        if state["rollout"] is None:
            return
        time.sleep(POLL_S)


def _changes(states: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave out what differs from the state before in nothing but the time."""
    before: dict[str, Any] | None = None
    for state in states:
        seen = {**state, "at_s": None}
        if state["rollout"] is not None:
            seen["rollout"] = {**state["rollout"], "left_s": None}
        if seen != before:
            before = seen
            yield state


def _show(server: Server, endpoint: str) -> dict[str, Any]:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    last: dict[str, Any] = {}
    if not console.is_terminal:
        for last in _changes(_told(server, endpoint)):
            click.echo(line_of(last))
        return last
    with Live("", console=console, refresh_per_second=8) as live:
        before: str | None = None
        for last in _told(server, endpoint):
            line = line_of(last)
            step = json.dumps([last["status"], *_step_of(last)])
            if before is not None and step != before:
                live.console.print(line)
            before = step
            live.update(line)
    return last


def _step_of(state: dict[str, Any]) -> list[Any]:
    rollout = state["rollout"]
    return [] if rollout is None else [rollout["phase"], rollout["step"], rollout["share_percent"]]


def line_of(state: dict[str, Any]) -> str:
    """Write one state as one line."""
    rollout = state["rollout"]
    if rollout is None:
        reason = f": {state['failure_reason']}" if state["failure_reason"] else ""
        return f"{state['endpoint']} {state['status']}, serves {state['config']}{reason}"
    share = rollout["share_percent"]
    filled = round(BAR_WIDTH * share / 100.0)
    parts = [
        f"{state['endpoint']} {state['status']}",
        f"{rollout['from'] or '-'} -> {rollout['to']}",
        f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:g} %",
    ]
    if rollout["steps_percent"]:
        parts.append(f"step {rollout['step']} of {len(rollout['steps_percent'])}")
    phase = _PHASES.get(rollout["phase"], rollout["phase"])
    if rollout["left_s"] is not None:
        phase += f", {rollout['left_s']:.0f} s left"
    parts.append(phase)
    if rollout["alarms"]:
        alarms = (f"{one['name']} {one['state'] or 'is missing'}" for one in rollout["alarms"])
        parts.append("alarms: " + ", ".join(alarms))
    if rollout["rollback_reason"]:
        parts.append(rollout["rollback_reason"])
    return "  ".join(parts)


@command.command("rollback")
@click.argument("endpoint")
@data_dir_option
@click.option("--reason", default="", help="Kept in the audit trail and the endpoint's FailureReason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(endpoint: str, data_dir: str | None, reason: str, as_json: bool) -> None:
    """Give up the update of ENDPOINT: the old fleet answers everything again.

    Does not wait for the end.  Ends with code 0 when the update goes back, 1 when there is none that could.

    \b
    Examples:
      understudy rollout rollback churn
      understudy rollout rollback churn --reason "too slow" && understudy rollout watch churn
    """
    body = {"reason": reason} if reason else {}
    answer = call_server(connect(data_dir), "POST", endpoint_path(endpoint, "rollback"), body=body)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{endpoint}: rolling back from {answer['from']} to {answer['to']}.")

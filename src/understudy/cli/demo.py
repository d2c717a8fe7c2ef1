"""``understudy demo``: the A/B walk with two models trained on the spot."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from understudy.cli.connection import boto3_client, environment
from understudy.sdk.servers import DEFAULT_DATA_DIR, Server, ServerNotFound, read_server


@click.command("demo")
@click.option(
    "--data-dir", metavar="DIR", help="Where the server keeps its data.  [default: a temporary one]"
)
@click.option("--keep", is_flag=True, help="Leave server and endpoint running (data in ./.understudy).")
def command(data_dir: str | None, keep: bool) -> None:
    """Train two models, deploy both behind one endpoint, A/B test them, shift the traffic, drop the old one.

    Starts a server of its own unless one runs on --data-dir. Everything goes through plain boto3; the calls
    are printed at the end for copying.

    \b
    Examples:
      understudy demo
      understudy demo --keep && understudy status
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="understudy-demo-") as scratch:
        place = Path(data_dir) if data_dir else Path(DEFAULT_DATA_DIR) if keep else Path(scratch) / "data"
        files = place.resolve() / "demo" if keep else Path(scratch) / "models"
        files.mkdir(parents=True, exist_ok=True)
        _run(console, place.resolve(), files, keep=keep, ephemeral=data_dir is None and not keep)


def _run(console: object, place: Path, files: Path, *, keep: bool, ephemeral: bool) -> None:
    from botocore.exceptions import ClientError, WaiterError
    from rich.console import Console
    from rich.syntax import Syntax

    from understudy.demo.calls import Calls
    from understudy.demo.models import train
    from understudy.demo.server import ServerFailed
    from understudy.demo.walk import Walk, WalkFailed, walk

    assert isinstance(console, Console)
    started_s = time.monotonic()
    try:
        console.print("[bold]Training[/bold] two models on scikit-learn's breast cancer data")
        trained = train(files)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"The demo trains with scikit-learn ({error}). Install it: pip install 'understudy-ml[demo]'."
        ) from error
    try:
        with _server(place, files, keep=keep, ephemeral=ephemeral) as server:
            console.print(f"Server: {server.endpoint_url}")
            name = "DEMO-tumours-" + time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(server.now_s()))
            calls = Calls(lambda service: boto3_client(server, service))
            role_arn = "arn:aws:iam::123456789012:role/understudy"
            story = Walk(calls, console, trained, role_arn, server.now_s, name)
            try:
                walk(story, keep=keep)
            except (ClientError, WaiterError, WalkFailed) as error:
                raise click.ClickException(f"{error}{_reason(server, name)}") from error
            console.print("\n[bold]The calls[/bold], for copying:\n")
            code = calls.code(trained.rows[0])
            console.print(
                Syntax(code, "python", background_color="default") if console.is_terminal else code,
                markup=False,
            )
            console.print(f"\nDone in {time.monotonic() - started_s:.0f} s.")
            if keep:
                _tell_how_to_go_on(console, server, name)
    except ServerFailed as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _server(place: Path, files: Path, *, keep: bool, ephemeral: bool) -> Iterator[Server]:
    """Give the server that runs on the data directory, or one that lives as long as the demo."""
    from understudy.demo.server import start_server

    with contextlib.suppress(ServerNotFound):
        yield read_server(place)
        return
    started = start_server(place, log=files / "server.log", ephemeral=ephemeral, environment=environment())
    try:
        yield started.server
    except BaseException as error:
        started.stop()
        if isinstance(error, click.ClickException):
            click.echo(f"The end of the server's log:\n{started.last_words()}\n", err=True)
        raise
    if not keep and started.stop() != 0:
        raise click.ClickException("The server did not stop cleanly.")


def _reason(server: Server, name: str) -> str:
    """Say why the endpoint failed, where that is what happened."""
    from botocore.exceptions import ClientError

    try:
        described = boto3_client(server, "sagemaker").describe_endpoint(EndpointName=name)
    except ClientError:
        return ""
    reason = described.get("FailureReason")
    return f"\n{name}: {reason}" if reason else ""


def _tell_how_to_go_on(console: object, server: Server, name: str) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    option = f"--data-dir {shlex.quote(str(server.data_dir))}"
    console.print(f"\nStill serving at {server.endpoint_url}:")
    for line in (
        f'eval "$(understudy env {option})"',
        f"aws sagemaker describe-endpoint --endpoint-name {name}",
        f"understudy status {option}",
        f"understudy logs {name} -f {option}",
        f"kill {server.pid}    # stops it; `understudy serve {option}` brings it back",
    ):
        console.print(f"  {line}", markup=False)

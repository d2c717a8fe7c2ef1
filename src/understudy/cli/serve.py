"""``understudy serve``: run a server in the foreground."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from understudy.settings import Settings, SettingsError, load_settings
from understudy.supervisor import supervise

EPILOG = """\b
Examples:
  understudy serve                              on 127.0.0.1:8080, state in ./.understudy
  understudy serve --port 0 --ephemeral         a free port, nothing left behind (CI)
  understudy serve --data-dir /srv/models --routers 4
  understudy serve --time-scale 60              a minute passes in a second (tests)
  eval "$(understudy env)"                      then boto3 and the AWS CLI talk to it
"""


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.  [default: 8080]")
@click.option("--data-dir", type=click.Path(file_okay=False), help="All state.  [default: ./.understudy]")
@click.option("--routers", type=int, help="Router processes.  [default: half the cores]")
@click.option("--time-scale", type=float, help="Clock seconds per real second.  [default: 1]")
@click.option(
    "--ephemeral",
    is_flag=True,
    default=None,
    help="Nothing stays: a temporary data directory, or --data-dir if it is new or empty.",
)
@click.option("--auth", type=click.Choice(["sigv4", "none"]), help="none: loopback only.  [default: sigv4]")
@click.option("--region", help="Region in ARNs and signatures.  [default: us-east-1]")
@click.option("--database", help="postgresql://USER:PASSWORD@HOST/NAME instead of SQLite.")
@click.option("--objects", help="http(s)://HOST:PORT of an S3 server instead of a folder.")
@click.option("--file-roots", help="Folders below which file:// model data is allowed, separated by ':'.")
@click.option("--images", type=click.Path(dir_okay=False), help="TOML file with further image entries.")
@click.option("--environments-dir", type=click.Path(file_okay=False), help="Where model environments go.")
@click.option(
    "--console", type=click.Choice(["on", "readonly", "off"]), help="The pages at /console.  [default: on]"
)
@click.option(
    "--shadow-cpu-percent",
    type=int,
    help="Ceiling of each shadow instance; 100: one processor.  [default: 0, none]",
)
@click.option("--alarm-webhooks", help="Where alarms may send to, e.g. 'https://hooks.example/*'.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="TOML with these names.")
def serve(config_file: str | None, **options: Any) -> None:
    """Run Understudy: one port for SageMaker, its runtime, S3, CloudWatch, Logs, STS and IAM.

    Every option can also be set as UNDERSTUDY_NAME in the environment or in understudy.toml.
    Ctrl-C or SIGTERM finishes what is in flight and stops everything.
    """
    try:
        settings = load_settings(options, config_file=config_file)
        if _wants_a_temporary_place(settings, options):
            settings = replace(settings, data_dir=tempfile.mkdtemp(prefix="understudy-"))

        def on_ready(url: str) -> None:
            click.echo(f"Understudy listens on {url} (data: {settings.data_dir})", err=True)
            if settings.console != "off":
                click.echo(f"Console: {url}/console", err=True)
            place = shlex.quote(settings.data_dir)
            click.echo(f'Clients: eval "$(understudy env --data-dir {place})"', err=True)

        sys.exit(supervise(settings, on_ready=on_ready))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _wants_a_temporary_place(settings: Settings, options: Mapping[str, Any]) -> bool:
    """Tell whether an ephemeral server was named no directory.

    With the flag only ``--data-dir`` names one: in a shell after ``eval "$(understudy env)"`` the
    environment names another server's.
    """
    if not settings.ephemeral or options["data_dir"] is not None:
        return False
    return bool(options["ephemeral"]) or settings.data_dir == str(Path(Settings.data_dir).resolve())

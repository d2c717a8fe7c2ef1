"""``understudy exec``: becomes a command whose AWS calls all go to a server."""

from __future__ import annotations

import os

import click

from understudy.cli.connection import connect, data_dir_option, environment
from understudy.sdk.environment import exec_environment

CANNOT_RUN, NOT_FOUND = 126, 127  # as a shell has them


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@data_dir_option
@click.argument("arguments", metavar="-- COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, data_dir: str | None, arguments: tuple[str, ...]) -> None:
    """Run a command; all AWS calls of every Python below it go to the server, none leaves this machine.

    boto3, botocore, the AWS CLI and the SageMaker SDK run unchanged, also where they name AWS hosts,
    regions or profiles. The command keeps its own Python; Understudy need not be installed there.
    Its exit code is yours. (Python started with -I or -E skips the redirection and has the variables of
    `understudy env` only.)

    \b
    Examples:
      understudy exec -- python walk.py
      understudy exec -- pytest tests
      understudy exec --data-dir /srv/models -- jupyter lab
    """
    child = exec_environment(connect(data_dir), environment())
    try:
        os.execvpe(arguments[0], list(arguments), child)
    except FileNotFoundError:
        click.echo(f"Error: {arguments[0]}: command not found.", err=True)
        ctx.exit(NOT_FOUND)
    except OSError as error:
        click.echo(f"Error: {arguments[0]}: {error.strerror}.", err=True)
        ctx.exit(CANNOT_RUN)

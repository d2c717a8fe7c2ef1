"""``understudy env``: the variables that point AWS clients at a server."""

from __future__ import annotations

import json
import shlex

import click

from understudy.cli.connection import connect, data_dir_option, environment
from understudy.sdk.environment import client_variables, interfering_variables


@click.command("env")
@data_dir_option
@click.option(
    "--format", "form", type=click.Choice(["sh", "json", "dotenv"]), default="sh", show_default=True
)
def command(data_dir: str | None, form: str) -> None:
    """Print the variables that point boto3 and the AWS CLI at a running server.

    Variables of your own that would win over them (a profile, a session token) are unset in the sh form.
    Code that names AWS hosts itself, such as the SageMaker SDK, needs `understudy exec`.

    \b
    Examples:
      eval "$(understudy env)" && aws sagemaker list-endpoints
      understudy env --data-dir /srv/models --format dotenv > .env
    """
    present = environment()
    variables = client_variables(connect(data_dir), present)
    if form == "json":
        click.echo(json.dumps(variables, indent=2))
    elif form == "dotenv":
        for name, value in variables.items():
            click.echo(f"{name}={shlex.quote(value)}")
    else:
        unset = interfering_variables(present)
        if unset:
            click.echo("unset " + " ".join(unset))
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")

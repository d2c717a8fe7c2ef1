"""The shell face: one click group whose commands are loaded when they are called.

Owns nothing; every command but ``serve`` is a client of a running server.  Main function: :func:`main`.
"""

from __future__ import annotations

import importlib

import click

from understudy import __version__

COMMANDS = {
    "serve": ("understudy.cli.serve:serve", "Run a server."),
    "env": (
        "understudy.cli.env:command",
        "Print the variables that point boto3 and the AWS CLI at a server.",
    ),
    "exec": ("understudy.cli.execute:command", "Run a command whose AWS calls all go to a server."),
    "status": ("understudy.cli.status:command", "Show processes, endpoints, variants and their shares."),
    "rollout": ("understudy.cli.rollout:command", "Watch an update take the traffic, or roll it back."),
    "events": ("understudy.cli.events:command", "Show what happened to an endpoint, and who asked for it."),
    "shadow": (
        "understudy.cli.shadow:command",
        "Test a model on copies of live requests; promote or remove it.",
    ),
    "guardrail": (
        "understudy.cli.guardrail:command",
        "Check the alarms that roll updates back.",
    ),
    "logs": ("understudy.cli.logs:command", "Show what an endpoint's models print."),
    "compare": ("understudy.cli.compare:command", "Compare a shadow's answers with production's."),
    "labels": ("understudy.cli.labels:command", "Tell what became of an endpoint's requests."),
    "quality": ("understudy.cli.quality:command", "Show how right each variant is on labelled requests."),
    "verdict": ("understudy.cli.verdict:command", "Promote, keep, hold or roll back, with the evidence."),
    "plan": ("understudy.cli.plan:command", "Say how much traffic or time a proof takes."),
    "demo": ("understudy.cli.demo:command", "Train two models and A/B test them, in about a minute."),
}
"""Command -> (``module:attribute``, one line of help)."""


class _LazyGroup(click.Group):
    """Lists commands without importing them: ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy")
def main() -> None:
    """Understudy: SageMaker endpoints, self-hosted. Same API, real models, one command.

    \b
    Examples:
      understudy demo                          see it work
      understudy serve                         run a server on ./.understudy
      eval "$(understudy env)"                 then boto3 and aws talk to it
      understudy exec -- python notebook.py    for code that names AWS hosts
    """

"""What every client command shares: ``--data-dir`` and the server behind it.

Turns "no server" into an error that says what to do.  Main functions: :func:`data_dir_option`,
:func:`connect`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from understudy.sdk.servers import DATA_DIR_VARIABLE, Server, ServerNotFound, find_server

F = TypeVar("F", bound=Callable[..., Any])


def data_dir_option(function: F) -> F:
    """Add ``--data-dir`` to a command."""
    return click.option(
        "--data-dir",
        metavar="DIR",
        help=f"Data directory of the server.  [default: ${DATA_DIR_VARIABLE}, else ./.understudy]",
    )(function)


def environment() -> Mapping[str, str]:
    """Return the process's environment: client commands take the server from it and hand it on."""
    return os.environ  # noqa: TID251 - settings are the server's; this is what a client was called with


def connect(data_dir: str | None) -> Server:
    """Find the server that a client command is meant for.

    Raises:
        click.ClickException: none runs there (exit code 1).
    """
    try:
        return find_server(data_dir, environment())
    except ServerNotFound as error:
        raise click.ClickException(str(error)) from error


def boto3_client(server: Server, service: str) -> Any:
    """Build a boto3 client of a server; the user's own profiles and proxies play no part."""
    import boto3  # 0.1 s that --help need not wait for
    from botocore.config import Config

    return boto3.session.Session().client(
        service,
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        config=Config(proxies={}, s3={"addressing_style": "path"}, retries={"mode": "standard"}),
    )

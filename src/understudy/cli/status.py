"""``understudy status``: the server's processes, endpoints and variants."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import click

from understudy.cli.connection import connect, data_dir_option
from understudy.sdk.servers import Server

STATUS_PATH = "/understudy/v1/status"
TIMEOUT_S = 10.0


@click.command("status")
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(data_dir: str | None, as_json: bool) -> None:
    """Show the server's processes, endpoints, variants, traffic shares and instances.

    \b
    Examples:
      understudy status
      understudy status --json | jq '.processes[] | select(.role == "router").pid'
    """
    server = connect(data_dir)
    status = fetch_status(server)
    if as_json:
        click.echo(json.dumps(status, indent=2))
    else:
        _show(server, status)


def fetch_status(server: Server) -> dict[str, Any]:
    """Ask a server for its status.

    Returns:
        ``{"processes": [{"role", "pid", "name"}], "endpoints": [{"name", "status", "config_name",
        "variants": [{"name", "weight", "share", "instances", "desired_instances", "images"}]}]}``.

    Raises:
        click.ClickException: it can't be reached or refuses.
    """
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = server.endpoint_url + STATUS_PATH
    signed = AWSRequest(method="GET", url=url)
    credentials = Credentials(server.access_key_id, server.secret_access_key)
    SigV4Auth(credentials, "sagemaker", server.region).add_auth(signed)
    request = urllib.request.Request(url, headers=dict(signed.headers.items()))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=TIMEOUT_S) as response:
            value = json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read(2000).decode("utf-8", "replace")
        raise click.ClickException(f"{url} answered {error.code}: {text}") from error
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"The server at {server.endpoint_url} does not answer ({error}). If its process hangs, stop it "
            "and start it again with `understudy serve`."
        ) from error
    assert isinstance(value, dict)
    return value


def _show(server: Server, status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"Understudy at [bold]{server.endpoint_url}[/bold]")
    processes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PROCESS", "PID", "ROLE"):
        processes.add_column(column, no_wrap=True)
    for process in status["processes"]:
        processes.add_row(process["name"], str(process["pid"]), process["role"])
    console.print()
    console.print(processes)
    if not status["endpoints"]:
        console.print("\nNo endpoints yet. `understudy demo` makes one; so does boto3's create_endpoint.")
        return
    endpoints = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ENDPOINT", "STATUS", "VARIANT", "WEIGHT", "SHARE", "INSTANCES", "IMAGE"):
        endpoints.add_column(
            column, justify="right" if column in ("WEIGHT", "SHARE", "INSTANCES") else "left"
        )
    for endpoint in status["endpoints"]:
        names = [endpoint["name"], endpoint["status"]]
        for variant in endpoint["variants"]:
            endpoints.add_row(*names, *_variant_cells(variant))
            names = ["", ""]
        if not endpoint["variants"]:
            endpoints.add_row(*names, "-", "-", "-", "-", "-")
    console.print()
    console.print(endpoints)


def _variant_cells(variant: dict[str, Any]) -> list[str]:
    images = [image if isinstance(image, str) else str(image.get("resolved")) for image in variant["images"]]
    return [
        variant["name"],
        f"{variant['weight']:g}",
        f"{variant['share']:.1%}",
        f"{variant['instances']}/{variant['desired_instances']}",
        ", ".join(images),
    ]

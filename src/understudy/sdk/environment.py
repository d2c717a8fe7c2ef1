"""Which environment variables point AWS clients at a server, and which of the user's own would interfere.

Pure: takes and returns mappings.  Main functions: :func:`client_variables`, :func:`interfering_variables`,
:func:`exec_environment`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from understudy.sdk.servers import DATA_DIR_VARIABLE, Server

HOOK_DIR = Path(__file__).parent / "hook"
URL_VARIABLE = "UNDERSTUDY_REDIRECT_URL"  # as in hook/understudy_redirect.py
TELEMETRY_VARIABLE = "SAGEMAKER_ADMIN_CONFIG_OVERRIDE"

INTERFERING = (
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
)
"""Variables with which botocore would use other keys, or not the server's address."""

PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def client_variables(server: Server, environment: Mapping[str, str]) -> dict[str, str]:
    """Give the variables with which boto3 and the AWS CLI talk to a server.

    Args:
        server: The server.
        environment: The present one: with a proxy in it, the server's host is exempted from the proxy.
    """
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_ACCESS_KEY_ID": server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_REGION": server.region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if server.data_dir is not None:
        variables[DATA_DIR_VARIABLE] = str(server.data_dir)
    if any(environment.get(name) for name in PROXY_VARIABLES):
        for name in ("NO_PROXY", "no_proxy"):
            variables[name] = _with_host(
                environment.get("no_proxy") or environment.get("NO_PROXY") or "",
                urlsplit(server.endpoint_url).hostname or "",
            )
    return variables


def interfering_variables(environment: Iterable[str]) -> list[str]:
    """Name the variables of an environment that must be unset beside :func:`client_variables`."""
    return sorted(name for name in environment if name in INTERFERING or name.startswith("AWS_ENDPOINT_URL_"))


def exec_environment(server: Server, environment: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a command whose AWS calls all go to the server.

    Args:
        server: The server.
        environment: The present one, kept but for what interferes.
    """
    unset = interfering_variables(environment)
    child = {name: value for name, value in environment.items() if name not in unset}
    child.update(client_variables(server, environment))
    child[URL_VARIABLE] = server.endpoint_url
    child.setdefault(TELEMETRY_VARIABLE, str(HOOK_DIR / "sagemaker-defaults.yaml"))
    known = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    child["PYTHONPATH"] = os.pathsep.join(
        [str(HOOK_DIR), *(entry for entry in known if entry != str(HOOK_DIR))]
    )
    return child


def _with_host(no_proxy: str, host: str) -> str:
    hosts = [entry.strip() for entry in no_proxy.split(",") if entry.strip()]
    return ",".join(hosts if host in hosts else [*hosts, host])

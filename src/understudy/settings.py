"""One frozen Settings, from defaults, a TOML file, the environment and the command line (later wins).

The only reader of the environment.  Main function: :func:`load_settings`.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from understudy.core.webhooks import parse_webhooks

ENVIRONMENT_PREFIX = "UNDERSTUDY_"
CONFIG_FILE = "understudy.toml"
LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


class SettingsError(ValueError):
    """A setting that can't be used; the text says which and what to do."""


@dataclass(frozen=True)
class Settings:
    """What one server is told at its start.

    Attributes:
        host: Address to listen on; loopback unless asked.
        port: TCP port; 0 takes a free one.
        data_dir: The one place where state lives.
        routers: Router processes; 0 means half the cores, at least 1.
        time_scale: Clock seconds per real second, for tests and CI.
        ephemeral: Remove ``data_dir`` at the end; it must be new or empty at the start.
        auth: ``sigv4``, or ``none`` (loopback only).
        region, account_id: What ARNs and credential scopes carry.
        database: ``postgresql://...``; empty means SQLite in ``data_dir``.
        objects: ``http(s)://host:port`` of an S3 server to use as the object store; empty means a
            folder in ``data_dir``.  Its keys: ``objects_access_key_id``, ``objects_secret_access_key``.
        file_roots: Folders below which ``file://`` model data is allowed, separated by ``:``.
        images: A TOML file with further image entries.
        shadow_cpu_percent: The most that each instance of a shadow may use of the processors, 100 is one of
            them; 0: no ceiling but the shadow's own.
        environments_dir: Where model environments are built; empty means in ``data_dir``.
        console: ``on``, ``readonly`` (it shows everything and changes nothing) or ``off``.
        alarm_webhooks: Where alarms may send messages to, e.g. ``https://hooks.example/*``, separated by
            blanks; empty: nowhere.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: str = ".understudy"
    routers: int = 0
    time_scale: float = 1.0
    ephemeral: bool = False
    auth: str = "sigv4"
    region: str = "us-east-1"
    account_id: str = "123456789012"
    database: str = ""
    objects: str = ""
    objects_access_key_id: str = ""
    objects_secret_access_key: str = ""
    file_roots: str = ""
    images: str = ""
    environments_dir: str = ""
    console: str = "on"
    shadow_cpu_percent: int = 0
    alarm_webhooks: str = ""
    log_level: str = "info"

    @property
    def run_dir(self) -> Path:
        """Sockets, locks and process facts; rebuilt at every start."""
        return Path(self.data_dir) / "run"

    @property
    def credentials_path(self) -> Path:
        """Access key and secret, mode 0600."""
        return Path(self.data_dir) / "credentials.json"

    @property
    def console_secret_path(self) -> Path:
        """What signs the console's sessions, mode 0600."""
        return Path(self.data_dir) / "console.key"

    @property
    def spool_dir(self) -> Path:
        """Captured records on their way from the routers to the object store."""
        return Path(self.data_dir) / "spool"

    @property
    def router_count(self) -> int:
        """Routers to run: half the cores unless told, at least 1."""
        return self.routers or max(1, (os.cpu_count() or 2) // 2)


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    config_file: str | None = None,
) -> Settings:
    """Build the settings of a server.

    Args:
        overrides: From the command line; None values mean "not given".
        environment: ``UNDERSTUDY_*`` variables; the process's own by default.
        config_file: TOML with the same names; ``understudy.toml`` of the working directory if there is one.

    Raises:
        SettingsError: an unknown name, a value of the wrong form, or a combination that is not allowed.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    named = config_file or environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    path = Path(named or CONFIG_FILE)
    if named or path.exists():
        try:
            values.update(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}.") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
    names = {field.name for field in fields(Settings)}
    for name in names:
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            values[name] = text
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    unknown = sorted(set(values) - names)
    if unknown:
        raise SettingsError(f"Unknown setting {', '.join(unknown)}; known: {', '.join(sorted(names))}.")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"Settings: {error}") from error
    settings = _with_absolute_paths(settings)
    _check(settings)
    return settings


def _with_absolute_paths(settings: Settings) -> Settings:
    """Resolve paths here: the server's processes have another working directory."""
    return replace(
        settings,
        data_dir=str(Path(settings.data_dir).resolve()),
        file_roots=":".join(str(Path(root).resolve()) for root in settings.file_roots.split(":") if root),
        images=str(Path(settings.images).resolve()) if settings.images else "",
        environments_dir=str(Path(settings.environments_dir).resolve()) if settings.environments_dir else "",
    )


def _check(settings: Settings) -> None:
    if "?" in settings.data_dir:
        raise SettingsError(f"--data-dir {settings.data_dir}: a '?' in the path is not supported.")
    if not 0 <= settings.port <= 65535:
        raise SettingsError(f"--port {settings.port}: choose 0 (any free port) to 65535.")
    if settings.auth not in ("sigv4", "none"):
        raise SettingsError(f"--auth {settings.auth}: choose sigv4 or none.")
    if settings.auth == "none" and not is_loopback(settings.host):
        raise SettingsError(
            f"--auth none lets everybody who reaches {settings.host} run code here; use it with "
            "--host 127.0.0.1 only, or leave --auth sigv4."
        )
    if not (settings.time_scale > 0.0 and math.isfinite(settings.time_scale)):
        raise SettingsError(f"--time-scale {settings.time_scale}: choose a number above 0.")
    if not 0 <= settings.routers <= 64:
        raise SettingsError(f"--routers {settings.routers}: choose 0 (half the cores) to 64.")
    if settings.shadow_cpu_percent != 0 and not 5 <= settings.shadow_cpu_percent <= 6400:
        raise SettingsError(
            f"--shadow-cpu-percent {settings.shadow_cpu_percent}: choose 5 to 6400 (100 is one processor), "
            "or 0 for no ceiling."
        )
    if not (settings.account_id.isdigit() and len(settings.account_id) == 12):
        raise SettingsError(f"account_id {settings.account_id!r}: an AWS account id has 12 digits.")
    # botocore's own check of a region, which goes into host names; ours go into ARNs and scopes too.
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", settings.region):
        raise SettingsError(f"--region {settings.region!r}: a region is written like us-east-1.")
    if settings.images and not Path(settings.images).is_file():
        raise SettingsError(f"--images {settings.images}: there is no such file.")
    if settings.objects and not settings.objects.startswith(("http://", "https://")):
        raise SettingsError(f"--objects {settings.objects}: give http(s)://HOST:PORT of an S3 server.")
    if settings.console not in ("on", "readonly", "off"):
        raise SettingsError(f"--console {settings.console}: choose on, readonly or off.")
    try:
        parse_webhooks(settings.alarm_webhooks)
    except ValueError as error:
        raise SettingsError(f"--alarm-webhooks: {error}.") from error
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"log_level {settings.log_level}: choose debug, info, warning or error.")
    if settings.database and not settings.database.startswith(("postgresql://", "sqlite://")):
        raise SettingsError(
            "--database: give postgresql://USER:PASSWORD@HOST:PORT/NAME or leave it out for SQLite."
        )


def process_environment() -> Mapping[str, str]:
    """Return a copy of the process's environment, for adapters that start programs."""
    return dict(os.environ)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

"""Which addresses alarms may send to.

Owns the allow-list's patterns and the check of one URL against them.  Refuses everything that is not named:
a webhook is a request from inside the network.  Main functions: :func:`parse_webhooks`, :func:`is_allowed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PATTERN = re.compile(r"(https?)://([^/?#@\s]+)(/[^?#\s]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class WebhookPattern:
    """One entry of the allow-list.

    Attributes:
        host: Lower case; ``*.example.com`` stands for every name below it.
        path: Exact, or a prefix where it ends in ``*``.
    """

    scheme: str
    host: str
    port: int
    path: str


def parse_webhooks(text: str) -> tuple[WebhookPattern, ...]:
    """Read the setting: patterns separated by blanks or commas.

    Raises:
        ValueError: one is none; the text says which.

    >>> parse_webhooks("https://hooks.example/alarms/*")[0].path
    '/alarms/*'
    """
    patterns = []
    for entry in text.replace(",", " ").split():
        match = _PATTERN.fullmatch(entry)
        host, port = "", None
        if match is not None:
            try:
                parts = urlsplit(f"{match[1]}://{match[2]}")
                host, port = parts.hostname or "", parts.port
            except ValueError:
                host = ""
        stars = host.removeprefix("*.").count("*") + (match[3] or "").rstrip("*").count("*") if match else 1
        if match is None or not host or stars:
            raise ValueError(
                f"{entry!r} is no address like https://hooks.example/* or https://*.example.com/x"
            )
        scheme = match[1].lower()
        patterns.append(WebhookPattern(scheme, host, port or _DEFAULT_PORTS[scheme], match[3] or "/"))
    return tuple(patterns)


def is_webhook(action: str) -> bool:
    """Tell whether an action is a web address, not an ARN."""
    return action.lower().startswith(("http://", "https://"))


def is_allowed(url: str, patterns: Sequence[WebhookPattern]) -> bool:
    """Tell whether alarms may send to a URL.

    >>> allowed = parse_webhooks("https://hooks.example/a/*")
    >>> [is_allowed(url, allowed) for url in ("https://hooks.example/a/b", "https://hooks.example@evil.io/a/b")]
    [True, False]
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return False
    if parts.username is not None or parts.password is not None or not parts.hostname:
        return False
    if ".." in unquote(parts.path).split("/"):
        return False
    return any(_matches(parts, port, pattern) for pattern in patterns)


def _matches(parts: SplitResult, port: int | None, pattern: WebhookPattern) -> bool:
    host = (parts.hostname or "").lower()
    if parts.scheme != pattern.scheme or (port or _DEFAULT_PORTS[parts.scheme]) != pattern.port:
        return False
    if pattern.host.startswith("*."):
        if not host.endswith(pattern.host[1:]) or host == pattern.host[1:]:
            return False
    elif host != pattern.host:
        return False
    path = parts.path or "/"
    return path.startswith(pattern.path[:-1]) if pattern.path.endswith("*") else path == pattern.path

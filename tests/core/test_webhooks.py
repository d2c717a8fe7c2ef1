"""The allow-list of webhooks against addresses that try to get around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.webhooks import is_allowed, parse_webhooks

ALLOWED = parse_webhooks("https://hooks.example/alarms/* http://127.0.0.1:9000/*, https://*.corp.example/in")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/alarms/1?token=x",
        "https://HOOKS.example:443/alarms/",
        "http://127.0.0.1:9000",
        "http://127.0.0.1:9000/a/b",
        "https://a.b.corp.example/in",
    ],
)
def test_allowed(url: str) -> None:
    assert is_allowed(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/alarms/1",
        "https://hooks.example:8443/alarms/1",
        "https://hooks.example/other",
        "https://hooks.example/alarms/../other",
        "https://hooks.example/alarms/%2e%2e/other",
        "https://hooks.example.evil.io/alarms/1",
        "https://hooks.example@evil.io/alarms/1",
        "https://user:word@hooks.example/alarms/1",
        "https://evil.io/hooks.example/alarms/1",
        "https://evil.io#https://hooks.example/alarms/1",
        "https://hooks.example\\@evil.io/alarms/1",
        "https://hooks.example/alarms/1\r\nHost: evil.io",
        "https://corp.example/in",
        "https://evilcorp.example/in",
        "https://a.corp.example/in/more",
        "http://127.0.0.1:9001/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "file:///etc/passwd",
        "",
    ],
)
def test_refused(url: str) -> None:
    assert not is_allowed(url, ALLOWED)
    assert not is_allowed(url, ())


@pytest.mark.parametrize(
    "text",
    ["hooks.example", "ftp://x/*", "https://", "https://*", "https://a*b/", "https://x/a*b", "https://x:y/"],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        parse_webhooks(text)


@given(st.text(max_size=60))
def test_no_text_gets_through_or_breaks_it(text: str) -> None:
    assert not is_allowed(f"https://{text}.invalid/alarms/1", ALLOWED)

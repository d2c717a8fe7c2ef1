"""``understudy rollout watch``: what it does while the server is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest

from understudy.cli import rollout
from understudy.cli.own_calls import Refused, Unreachable

AWAY = [Unreachable("no answer"), Refused(503, "ServiceUnavailable", "the controller starts")]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the server answers, call by call."""
    script: list[Any] = []

    def call(*_: Any, **__: Any) -> Any:
        answer = script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(rollout, "call_server", call)
    monkeypatch.setattr(rollout, "POLL_S", 0.0)
    yield script
    assert script == [], "it stopped asking too early"


def _told() -> list[dict[str, Any]]:
    server: Any = None
    return list(rollout._told(server, "e"))


def test_it_waits_while_the_controller_starts_again(ask: list[Any]) -> None:
    going, over = {"rollout": {"step": 1}}, {"rollout": None}
    ask += [going, *AWAY, going, *AWAY, over]
    assert _told() == [going, going, over]


def test_it_gives_up_where_nobody_answers_for_long(ask: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "PATIENCE_S", -1.0)
    for error in AWAY:
        ask.append(error)
        with pytest.raises(click.ClickException):
            _told()


def test_a_refusal_is_told_at_once(ask: list[Any]) -> None:
    ask.append(Refused(404, "ValidationException", "Could not find endpoint"))
    with pytest.raises(Refused, match="Could not find"):
        _told()

"""Delivery of alarms' messages: tries, restarts, receivers that misbehave."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.control.alarm_actions import RETRY_AFTER_S, ActionDelivery, NotTaken, post
from understudy.core.alarms import AlarmAction
from understudy.core.ports import Event, Put, Query
from understudy.core.webhooks import parse_webhooks
from understudy.stores.memory import MemoryRecords

URL = "https://hooks.example/a"
PATIENCE_S = 10.0


class SetClock:
    at_s = 1000.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class Receiver:
    """Refuses the first messages, then takes them."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.seen: list[dict[str, Any]] = []
        self.tries = 0

    def __call__(self, url: str, body: bytes) -> None:
        self.tries += 1
        if self.tries <= self.refusals:
            raise NotTaken("it answered 503")
        self.seen.append(json.loads(body))


def records_with(url: str = URL) -> MemoryRecords:
    records = MemoryRecords()
    records.commit([Put(AlarmAction("m1", "a", "arn:a", False, url, {"MessageId": "m1"}, 0.0, 0.0), 0)])
    return records


def until(holds: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def history(records: MemoryRecords) -> list[Event]:
    return records.events("arn:a", 0, 100)


@pytest.mark.parametrize("refusals", [0, 1, len(RETRY_AFTER_S)])
def test_a_message_is_tried_until_it_is_taken(refusals: int) -> None:
    records, clock, receiver = records_with(), SetClock(), Receiver(refusals)
    delivery = ActionDelivery(records, clock, parse_webhooks("https://hooks.example/*"), send=receiver)
    delivery.tick(reread=True)
    for attempt in range(refusals):
        until(lambda seen=attempt + 1: len(history(records)) == seen)  # type: ignore[misc]
        delivery.tick(reread=attempt % 2 == 0)  # not due yet
        clock.at_s += RETRY_AFTER_S[attempt]
        until(lambda: not delivery._under_way)
        delivery.tick(reread=False)
    until(lambda: not records.find(AlarmAction, Query()))
    assert receiver.seen == [{"MessageId": "m1"}] and receiver.tries == refusals + 1
    summaries = [event.detail["summary"] for event in history(records)]
    assert summaries[:-1] == [f"Failed to execute action {URL}. it answered 503"] * refusals
    assert summaries[-1] == f"Successfully executed action {URL}"
    delivery.close()


def test_it_is_given_up_in_the_end() -> None:
    records, clock, receiver = records_with(), SetClock(), Receiver(99)
    delivery = ActionDelivery(records, clock, parse_webhooks("https://hooks.example/*"), send=receiver)
    for number in range(len(RETRY_AFTER_S) + 1):
        delivery.tick(reread=number == 0)
        until(lambda seen=number + 1: len(history(records)) == seen)  # type: ignore[misc]
        until(lambda: not delivery._under_way)
        clock.at_s += 100.0
    assert records.find(AlarmAction, Query()) == []
    delivery.tick(reread=True)
    assert receiver.tries == len(RETRY_AFTER_S) + 1
    delivery.close()


def test_a_restart_takes_up_what_was_left() -> None:
    records, receiver = records_with(), Receiver(0)
    ActionDelivery(records, SetClock(), (), send=receiver).close()
    delivery = ActionDelivery(records, SetClock(), parse_webhooks(URL), send=receiver)
    delivery.tick(reread=True)
    until(lambda: receiver.seen)
    delivery.close()


def test_an_address_that_is_not_allowed_any_more_is_not_asked() -> None:
    records, receiver = records_with(), Receiver(0)
    delivery = ActionDelivery(records, SetClock(), parse_webhooks("https://other.example/*"), send=receiver)
    delivery.tick(reread=True)
    until(lambda: not records.find(AlarmAction, Query()))
    assert receiver.tries == 0 and "alarm_webhooks" in history(records)[0].detail["summary"]
    delivery.close()


def test_a_hung_receiver_keeps_nobody_waiting() -> None:
    release = threading.Event()
    records = records_with()
    delivery = ActionDelivery(
        records, SetClock(), parse_webhooks(URL), send=lambda _url, _body: release.wait(PATIENCE_S) and None
    )
    started_s = time.monotonic()
    delivery.tick(reread=True)
    delivery.tick(reread=True)
    assert time.monotonic() - started_s < PATIENCE_S / 2
    release.set()
    until(lambda: not records.find(AlarmAction, Query()))
    assert len(history(records)) == 1, "it was sent once"
    delivery.close()


# --- over HTTP -----------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        status = int(self.path.strip("/"))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [200, 202, 204])
def test_2xx_is_taken(address: str, status: int) -> None:
    post(f"{address}/{status}", b"{}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 404, 500, 503])
def test_anything_else_is_not_and_redirects_are_not_followed(address: str, status: int) -> None:
    with pytest.raises(NotTaken, match=str(status)):
        post(f"{address}/{status}", b"{}")
    assert Handler.asked == [f"/{status}"]


def test_nobody_there(address: str) -> None:
    with pytest.raises(NotTaken):
        post("http://127.0.0.1:1/", b"{}")

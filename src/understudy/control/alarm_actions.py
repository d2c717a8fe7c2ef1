"""Delivers the messages of alarms to webhooks, and tells in the alarm's history what became of them.

Owns the tries: each message is a record until it was taken or given up, so a restart loses none (a receiver
may get one twice; ``MessageId`` tells).  Refuses redirects, proxies and addresses that the setting does not
allow (any more).  Main method: :meth:`ActionDelivery.tick`; it never waits for a receiver.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from typing import IO, Any

from understudy.core.alarm_wording import action_result
from understudy.core.alarms import AlarmAction
from understudy.core.errors import Conflict
from understudy.core.ports import Clock, Delete, Event, Put, Query, Records, Stored
from understudy.core.webhooks import WebhookPattern, is_allowed

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
RETRY_AFTER_S = (1.0, 5.0, 25.0)  # real seconds; then it is given up
AT_ONCE = 4

Send = Callable[[str, bytes], None]


class NotTaken(Exception):
    """A receiver did not take a message; the text says why."""


class ActionDelivery:
    """Delivers what is due.

    Args:
        time_scale: Clock seconds per real second; receivers live in real time.
        send: Sends a body to a URL; raises :class:`NotTaken`.
    """

    def __init__(
        self,
        records: Records,
        clock: Clock,
        webhooks: Sequence[WebhookPattern],
        *,
        time_scale: float = 1.0,
        send: Send | None = None,
    ) -> None:
        self._records = records
        self._clock = clock
        self._webhooks = webhooks
        self._scale = time_scale
        self._send = send or post
        self._waiting: dict[str, Stored[AlarmAction]] = {}
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._pool = ThreadPoolExecutor(AT_ONCE, "webhooks")

    def tick(self, *, reread: bool) -> bool:
        """Hand what is due to the threads that send; False: there is nothing that should be soon again."""
        if reread:
            with self._lock:
                known = self._under_way | self._waiting.keys()
            # What is known already is followed here; it may change while the store is read.
            found = self._records.find(AlarmAction, Query())
            with self._lock:
                self._waiting.update({one.value.name: one for one in found if one.value.name not in known})
        now_s = self._clock.now_s()
        with self._lock:
            due = [one for one in self._waiting.values() if one.value.due_at_s <= now_s]
            for stored in due:
                del self._waiting[stored.value.name]
                self._under_way.add(stored.value.name)
        for stored in due:
            self._pool.submit(self._try, stored)
        return False

    def close(self) -> None:
        """Begin nothing any more; what is not delivered is tried again after the next start."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _try(self, stored: Stored[AlarmAction]) -> None:
        action = stored.value
        why: str | None = None
        final = False
        if not is_allowed(action.url, self._webhooks):
            why, final = "the setting alarm_webhooks does not allow this address any more", True
        else:
            try:
                self._send(action.url, json.dumps(action.message).encode())
            except NotTaken as error:
                why, final = str(error), action.attempts >= len(RETRY_AFTER_S)
        try:
            later = self._settle(stored, why, final=final)
        except Conflict:
            later = None  # deleted by hand; nothing is left to tell
        except Exception:
            # The record is still there: the next reading of the store tries again.
            log.exception("webhook %s: what became of %s can't be written", action.url, action.name)
            later = None
        with self._lock:
            self._under_way.discard(action.name)
            if later is not None:
                self._waiting[action.name] = later

    def _settle(
        self, stored: Stored[AlarmAction], why: str | None, *, final: bool
    ) -> Stored[AlarmAction] | None:
        """Write down the outcome; return the record that waits for another try, if there is one."""
        action, now_s = stored.value, self._clock.now_s()
        attempt = action.attempts + 1
        data: dict[str, Any] = {
            "actionState": "Succeeded" if why is None else "Failed",
            "notificationResource": action.url,
            "attempt": attempt,
        }
        if why is None:
            summary = f"Successfully executed action {action.url}"
            data["publishedMessage"] = action.message
        else:
            summary = f"Failed to execute action {action.url}. {why}"
            data["error"] = why
            log.warning("alarm %s: %s (attempt %d)", action.alarm_name, summary, attempt)
        told = action_result(action.alarm_name, action.composite, summary[:255], data)
        event = Event(action.alarm_arn, "AlarmAction", now_s, told)
        if why is None or final:
            self._records.commit([Delete(AlarmAction, action.name, stored.version), event])
            return None
        due_at_s = now_s + RETRY_AFTER_S[action.attempts] * self._scale
        later = replace(action, attempts=attempt, due_at_s=due_at_s)
        self._records.commit([Put(later, stored.version), event])
        return Stored(later, stored.version + 1)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to an address that nobody allowed."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message | http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def post(url: str, body: bytes) -> None:
    """Send a message.

    Raises:
        NotTaken: it was not answered with a status of 200 to 299 in time.
    """
    request = urllib.request.Request(
        url,
        data=body,
        method="POST",
        headers={"Content-Type": "application/json", "User-Agent": "understudy"},
    )
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        error.close()
        status = error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise NotTaken(f"{type(error).__name__}: {reason}") from error
    if not 200 <= status < 300:
        redirect = "; redirects are not followed" if 300 <= status < 400 else ""
        raise NotTaken(f"it answered {status}{redirect}")

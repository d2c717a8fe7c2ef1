"""Who may use the console: sign-in with the access key, a signed cookie, a token against forged requests.

Owns the cookie's form, ``PAYLOAD.MAC``: the payload names the session, the access key and the end; the MAC is
by a secret of the data directory together with the key's own secret, so that a renewed access key ends every
session.  Keeps on disk that secret and, beside it, the names of the sessions that were signed out before
their end: who kept such a cookie stays out of the next controller, too.  Main type: :class:`Sessions`.

Source: RFC 6265 (cookies); OWASP's "Cross-Site Request Forgery Prevention", signed tokens.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy.core.ports import Clock, Entropy

COOKIE = "understudy_console"
SESSION_S = 12 * 3600.0
FAILURES = 10  # wrong keys within FAILURES_S before everybody has to wait
FAILURES_S = 60.0
NOBODY = ""  # the access key of sessions under --auth none


class WrongKey(Exception):
    """No such access key, or not its secret."""


class TooManyFailures(Exception):
    """Too many wrong keys; ``retry_after_s`` tells when to come again."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many sign-ins failed. Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Session:
    """One signed-in browser.

    Attributes:
        token: What its changing requests must carry in ``X-Understudy-Csrf``.
    """

    session_id: str
    access_key_id: str
    ends_at_s: float
    token: str


class Sessions:
    """Gives and checks sessions.

    Args:
        secret_path: Made with mode 0600 when missing; ``…-ended`` beside it names the sessions signed out.
        credentials: Returns the secrets by access key id; None: nobody signs in (``--auth none``).
        clock: Real time.
        entropy: Draws the secret and the sessions' names.
    """

    def __init__(
        self,
        secret_path: Path,
        credentials: Callable[[], Mapping[str, str]] | None,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._entropy = entropy
        self._secret = _secret(secret_path, entropy)
        self._lock = threading.Lock()
        self._failures: deque[float] = deque()
        self._ended_path = secret_path.with_name(f"{secret_path.name}-ended")
        self._ended = _read_ended(self._ended_path)

    @property
    def open(self) -> bool:
        """Whether nobody needs to sign in."""
        return self._credentials is None

    def sign_in(self, access_key_id: str, secret_access_key: str) -> tuple[Session, str]:
        """Begin a session.

        Returns:
            The session and its cookie's value.
        Raises:
            WrongKey: not a key of this server.
            TooManyFailures: whatever the key is.
        """
        self._refuse_flood()
        known = {} if self._credentials is None else self._credentials()
        # Compare against something in any case: how long it takes tells nothing about which ids exist.
        secret = known.get(access_key_id, self._secret.hex())
        right = hmac.compare_digest(secret.encode(), secret_access_key.encode())
        if not (right and access_key_id in known):
            with self._lock:
                self._failures.append(time.monotonic())
            raise WrongKey
        return self._begin(access_key_id)

    def begin_open(self) -> tuple[Session, str]:
        """Begin a session of nobody in particular; only under ``--auth none``."""
        assert self.open
        return self._begin(NOBODY)

    def read(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None if it is none, forged, over or signed out."""
        if cookie is None:
            return None
        try:
            encoded, _, mac = cookie.partition(".")
            fields = json.loads(base64.urlsafe_b64decode(encoded.encode("ascii")))
            session_id, access_key_id, ends_at_s = fields
        except (binascii.Error, ValueError, TypeError, RecursionError):
            return None
        if not (isinstance(session_id, str) and isinstance(access_key_id, str)):
            return None
        key = self._key(access_key_id)
        if key is None or not hmac.compare_digest(_mac(key, "session", encoded).encode(), mac.encode()):
            return None
        if not isinstance(ends_at_s, int | float) or ends_at_s <= self._clock.now_s():
            return None
        with self._lock:
            if session_id in self._ended:
                return None
        return Session(session_id, access_key_id, float(ends_at_s), _mac(key, "csrf", session_id))

    def sign_out(self, session: Session) -> None:
        """End a session before its time."""
        now_s = self._clock.now_s()
        with self._lock:
            self._ended = {name: end_s for name, end_s in self._ended.items() if end_s > now_s}
            self._ended[session.session_id] = session.ends_at_s
            _write_whole(self._ended_path, json.dumps(self._ended).encode())

    def _begin(self, access_key_id: str) -> tuple[Session, str]:
        session_id = self._entropy.token(16)
        fields = [session_id, access_key_id, int(self._clock.now_s() + SESSION_S)]
        encoded = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
        key = self._key(access_key_id)
        assert key is not None
        cookie = f"{encoded}.{_mac(key, 'session', encoded)}"
        session = self.read(cookie)
        assert session is not None
        return session, cookie

    def _key(self, access_key_id: str) -> bytes | None:
        """Return what signs the sessions of an access key; None for a key that is not valid any more."""
        if self._credentials is None:
            return self._secret if access_key_id == NOBODY else None
        secret = self._credentials().get(access_key_id)
        return None if secret is None else self._secret + secret.encode()

    def _refuse_flood(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            while self._failures and self._failures[0] <= now_s - FAILURES_S:
                self._failures.popleft()
            if len(self._failures) >= FAILURES:
                raise TooManyFailures(int(self._failures[0] + FAILURES_S - now_s) + 1)


def token_fits(session: Session, token: str | None) -> bool:
    """Tell whether a request carries the session's own token."""
    return token is not None and hmac.compare_digest(session.token.encode(), token.encode())


def _mac(key: bytes, purpose: str, text: str) -> str:
    return hmac.new(key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _secret(path: Path, entropy: Entropy) -> bytes:
    """Read the data directory's secret, or make it; whole or not at all."""
    try:
        found = path.read_bytes()
        if len(found) >= 32:
            return found
    except FileNotFoundError:
        pass
    made = entropy.token(32).encode()
    _write_whole(path, made)
    return made


def _read_ended(path: Path) -> dict[str, float]:
    """Read which sessions were signed out, and when each would have ended."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return {str(name): float(end_s) for name, end_s in found.items()}


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads; after any crash it is the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)

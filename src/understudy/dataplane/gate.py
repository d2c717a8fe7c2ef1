"""Lets in whom the credentials file names: SigV4 over the raw request, real time, never the scaled clock.

Owns :class:`Gate`.  Refuses to keep serving old keys: the file is read again when it changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from understudy.core.names import Place
from understudy.core.signing import SignedRequest, verify
from understudy.dataplane.guard import Head

SERVICES = ("sagemaker",)


class BadCredentials(ValueError):
    """The credentials file can't be used."""


class Gate:
    """Credentials, and the check of a request against them.

    Attributes:
        place: Account and region of this server.
        signed: Whether requests must be signed.
    """

    def __init__(self, path: Path, *, signed: bool, now_s: Callable[[], float]) -> None:
        self._path = path
        self._now_s = now_s
        self.signed = signed
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, str] = {}
        self.place = Place()
        self._load()

    def _load(self) -> None:
        try:
            facts = self._path.stat()
            document = json.loads(self._path.read_bytes())
            keys = {str(document["access_key_id"]): str(document["secret_access_key"])}
            place = Place(account_id=str(document["account_id"]), region=str(document["region"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadCredentials(f"{self._path}: {error}") from error
        self._stamp = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        self._keys, self.place = keys, place

    def refresh(self) -> bool:
        """Read the file again if it changed.

        Returns:
            Whether it did.
        Raises:
            BadCredentials: it can't be read; the old ones stay.
        """
        try:
            facts = self._path.stat()
        except OSError as error:
            raise BadCredentials(f"{self._path}: {error}") from error
        if (facts.st_mtime_ns, facts.st_ino, facts.st_size) == self._stamp:
            return False
        self._load()
        return True

    def check(self, head: Head, body_sha256: str) -> None:
        """Check a request's signature.

        Raises:
            SignatureFailure: it does not hold.
        """
        request = SignedRequest(head.method.decode(), head.path, head.query, head.headers, body_sha256)
        verify(request, self._keys, now_s=self._now_s(), region=self.place.region, services=SERVICES)

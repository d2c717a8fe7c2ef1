"""Lets in whom the credentials file names: SigV4 over the raw request, real time, never the scaled clock.

Owns :class:`Gate`.  Refuses to keep serving old keys: the file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from understudy.core.names import Place
from understudy.core.resigned import Recipe, recipe_of
from understudy.core.signing import MAX_SKEW_S, SignedRequest, verify
from understudy.dataplane.familiar import Familiar
from understudy.dataplane.guard import Head

SERVICES = ("sagemaker",)


class BadCredentials(ValueError):
    """The credentials file can't be used."""


class Gate:
    """Credentials, and the check of a request against them.

    Attributes:
        place: Account and region of this server.
        signed: Whether requests must be signed.
        era: Another number whenever the credentials are read again: what was found under them is void then.
    """

    def __init__(self, path: Path, *, signed: bool, now_s: Callable[[], float]) -> None:
        self._path = path
        self._now_s = now_s
        self.signed = signed
        self.era = 0
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
        self.era += 1

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

    def check(self, head: Head, body_sha256: str) -> Callable[[], Recipe | None]:
        """Check a request's signature.

        Returns:
            What makes the recipe for the next one like it.
        Raises:
            SignatureFailure: it does not hold.
        """
        request = SignedRequest(head.method.decode(), head.path, head.query, head.headers, body_sha256)
        verified = verify(
            request, self._keys, now_s=self._now_s(), region=self.place.region, services=SERVICES
        )
        return lambda: recipe_of(request, verified)

    def recognises(self, known: Familiar, invocation_id: bytes, body: bytes, signature: bytes) -> bool:
        """Check the signature of a request whose head is known but for the parts cut out.

        Returns:
            False when it does not hold, or another check has to say so: nothing is refused here.
        """
        recipe = known.recipe
        return (
            recipe is not None
            and known.era == self.era
            and abs(self._now_s() - recipe.at_s) <= MAX_SKEW_S
            and recipe.holds(invocation_id, hashlib.sha256(body).hexdigest(), signature)
        )

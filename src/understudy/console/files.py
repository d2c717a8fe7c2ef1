"""The console's own files: read once, named by what is in them, sent compressed.

Every file is below ``/console/static/VERSION/``, where VERSION is a hash of all of them: browsers may keep
them for ever.  The page itself is asked for anew each time; it names the one script (``console.joining``),
what else its address will import and what is asked first, so that all of it comes at once, not one after
the other, and brings the viewer's session along.  Main type: :class:`ConsoleFiles`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from understudy.console.joining import joined

FOLDER = Path(__file__).with_name("static")
PAGE = "index.html"
MAIN = "js/main.js"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# What main.js shows at which address.
_SHOWN = re.compile(r"""^ +"?([\w-]*)"?: \(\) => import\("\./([\w/-]+\.js)"\)""", re.MULTILINE)
_ASKING = b'get("status")'
_ASKED = b'<link rel="preload" href="/console/api/status" as="fetch" crossorigin>'
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class ConsoleFile:
    """One file as it is sent.

    Attributes:
        packed: The same, gzipped.
        etag: With its quotes.
    """

    content_type: str
    body: bytes
    packed: bytes
    etag: str


class ConsoleFiles:
    """All files, in memory: about 250 kB."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in TYPES)
        bodies = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        together = hashlib.sha256()
        for name, body in bodies.items():
            together.update(f"{name}\0{len(body)}\0".encode())
            together.update(body)
        self.version = together.hexdigest()[:16]
        static = f"/console/static/{self.version}"
        page = bodies.pop(PAGE).replace(b"{static}", static.encode())
        shown = {name: f"js/{module}" for name, module in _SHOWN.findall(bodies[MAIN].decode())}
        modules = {name: bodies.pop(name) for name in list(bodies) if name.startswith("js/")}
        script = joined(modules, MAIN)
        self._pages = {
            name: page.replace(
                b"{modules}",
                "\n".join(
                    f'<link rel="modulepreload" href="{static}/{file}">' for file in script.loads[module]
                ).encode(),
            )
            for name, module in shown.items()
        }
        self._asking = {name for name, module in shown.items() if _ASKING in modules[module]}
        self._files = {name: _file(name, body) for name, body in bodies.items()}
        self._files[MAIN] = _file(MAIN, script.script)

    def page_at(self, path: str, session: Mapping[str, Any]) -> bytes:
        """Return the page for an address, ``/endpoints/churn``.

        Args:
            session: What the page must know of server and viewer: data, never markup.
        """
        name, _, rest = path.strip("/").partition("/")
        page = self._pages.get(name, self._pages[""])
        # Not for a page of its own below a name, as that of an update; nobody else is answered.
        asks = name in self._asking and "/" not in rest and session["signed_in"]
        page = page.replace(b"{asked}", _ASKED if asks else b"")
        # In JSON "<" stands only in texts, where its escape means the same and can end no element.
        return page.replace(b"{session}", msgspec.json.encode(session).replace(b"<", b"\\u003c"))

    def find(self, version: str, name: str) -> ConsoleFile | None:
        """Return a file of this version, or None."""
        return self._files.get(name) if version == self.version else None


def _file(name: str, body: bytes) -> ConsoleFile:
    return ConsoleFile(
        content_type=TYPES[Path(name).suffix],
        body=body,
        packed=gzip.compress(body, 9, mtime=0),
        etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    )

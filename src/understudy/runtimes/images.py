"""Image registry: which interpreter, packages and loader stand in for a container image.

Owns reading ``images.toml`` (ours, then the operator's, whose entries win) and matching an Image
against it; refuses an image that nobody described, with the list of those that are.
Main function: :meth:`Images.find`.

Source: image URIs as ``sagemaker.image_uris.retrieve`` returns them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from understudy.runtimes.failures import PreparationFailed

OWN_REGISTRY = Path(__file__).with_name("images.toml")
LOADERS = ("auto", "xgboost", "sklearn", "onnx", "pytorch", "script", "command")


@dataclass(frozen=True)
class Image:
    """One entry of the registry; the fields are those of ``images.toml``.

    Attributes:
        packages: Candidates in order of preference; each a tuple of requirements, possibly empty;
            items that begin with ``--`` are options of ``uv pip install``.
        python: ``3.11``, or None for the interpreter Understudy runs on.
    """

    name: str
    match: tuple[str, ...]
    loader: str
    packages: tuple[tuple[str, ...], ...]
    asked: str | None = None
    python: str | None = None
    command: tuple[str, ...] | None = None
    advice: str = ""


def requirement_name(requirement: str) -> str:
    """Cut a requirement's version and extras off.

    >>> requirement_name("scikit-learn>=1.4"), requirement_name("uvicorn[standard]==1")
    ('scikit-learn', 'uvicorn')
    """
    end = next(
        (at for at, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")), None
    )
    return requirement[:end].strip()


class Images:
    """The registry.

    Args:
        extra: Operators' files; earlier ones win, all of them before our own.  One that does not
            exist is skipped and looked for again at the next :meth:`find`.
    """

    def __init__(self, extra: Sequence[Path] = ()) -> None:
        self._extra = tuple(extra)
        self._own = read_registry(OWN_REGISTRY)

    def entries(self) -> list[Image]:
        """Return all entries in order of precedence; operators' files are read anew.

        Raises:
            PreparationFailed: an operator's file is wrong; the text names file and entry.
        """
        found: list[Image] = []
        for path in self._extra:
            if path.exists():
                found.extend(read_registry(path))
        return [*found, *self._own]

    def find(self, image: str) -> Image:
        """Find what stands in for an image.

        Args:
            image: URI or short name as given to CreateModel.

        Raises:
            PreparationFailed: nothing matches; the text lists what would and where to add an entry.
        """
        whole = image.partition("@")[0]
        tail = whole.rpartition("/")[2]
        entries = self.entries()
        for entry in entries:
            if entry.name in (whole, tail):
                return entry
        for entry in entries:
            if any(fnmatchcase(whole, pattern) or fnmatchcase(tail, pattern) for pattern in entry.match):
                return entry
        known = ", ".join(dict.fromkeys(entry.name for entry in entries))
        where = self._extra[0].name if self._extra else "images.toml"
        raise PreparationFailed(
            f"No environment is known for image {image!r}. Known short names: {known}. To add one, put an "
            f"[[image]] entry with name, match, loader and packages in {where} in the data directory."
        )


def read_registry(path: Path) -> list[Image]:
    """Read one ``images.toml``.

    Raises:
        PreparationFailed: not TOML, an unknown field, a wrong type or a missing one.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PreparationFailed(f"{path.name}: {error}") from error
    entries = document.get("image")
    if not isinstance(entries, list) or set(document) != {"image"}:
        raise PreparationFailed(f"{path.name}: expected nothing but [[image]] entries")
    return [_image(entry, f"{path.name}, [[image]] number {n}") for n, entry in enumerate(entries, 1)]


def _image(entry: Any, where: str) -> Image:
    """Check one entry and build it."""
    fields = {"name", "match", "loader", "packages", "asked", "python", "command", "advice"}
    if not isinstance(entry, dict):
        raise PreparationFailed(f"{where}: expected a table")
    unknown = sorted(set(entry) - fields)
    if unknown:
        raise PreparationFailed(
            f"{where}: unknown field {unknown[0]!r}; there are {', '.join(sorted(fields))}"
        )
    for field in ("name", "loader", "asked", "python", "advice"):
        if not isinstance(entry.get(field, ""), str):
            raise PreparationFailed(f"{where}: {field} must be a text")
    for field in ("match", "command"):
        if not _texts(entry.get(field, [])):
            raise PreparationFailed(f"{where}: {field} must be a list of texts")
    packages = entry.get("packages", [[]])
    if not isinstance(packages, list) or not packages or not all(_texts(candidate) for candidate in packages):
        raise PreparationFailed(f"{where}: packages must be a list of lists of requirements")
    loader = entry.get("loader", "auto")
    if "name" not in entry or loader not in LOADERS:
        raise PreparationFailed(f"{where}: needs a name and a loader, one of {', '.join(LOADERS)}")
    if (loader == "command") != ("command" in entry):
        raise PreparationFailed(f'{where}: command goes with loader = "command", and only with it')
    return Image(
        name=entry["name"],
        match=tuple(entry.get("match", [entry["name"]])),
        loader=loader,
        packages=tuple(tuple(candidate) for candidate in packages),
        asked=entry.get("asked"),
        python=entry.get("python"),
        command=tuple(entry["command"]) if "command" in entry else None,
        advice=entry.get("advice", ""),
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)

"""The console's modules as one script: a browser takes about as long for each file as for all in one.

Owns :func:`joined`, which turns each module into a function that runs when it is first imported, as modules
do.  Not a bundler for anybody's code: it knows the few spellings of ``import`` and ``export`` that our
modules use, and refuses the others when the server starts.  Files of others (``vendor``) stay files of their
own, loaded with the first page that needs them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

_IMPORT = re.compile(r"""^import (\{[^}]*\}|\w+) from "(\.[^"]+)";$""", re.MULTILINE)
_LOAD = re.compile(r"""\bimport\("(\.[^"]+)"\)""")
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_EXPORTS = re.compile(r"^export \{ ([\w, ]+) \};$", re.MULTILINE)
_RENAMED = re.compile(r"(\w+) as (\w+)")
_OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)

_START = """\
// All of the console's modules, joined when the server started: each runs when it is first imported.
const $made = {}, $vendor = {};
const $of = (name) => ($made[name] ??= $modules[name]());
const $load = async (name, files) => {
  for (const file of files) $vendor[file] ??= await import(file);
  return $of(name);
};
"""


@dataclass(frozen=True)
class Joined:
    """One script.

    Attributes:
        script: To be served in the place of the module that runs.
        loads: By module, the files of others that it and what it imports need.
    """

    script: bytes
    loads: Mapping[str, tuple[str, ...]]


def joined(sources: Mapping[str, bytes], main: str, vendor: str = "vendor/") -> Joined:
    """Join modules.

    Args:
        sources: Text by path, ``js/pages/ab.js``.
        main: The module that runs; the script has to be served from its folder.
        vendor: Where paths of others' modules begin, which export a default.
    Raises:
        ValueError: A module imports or exports in a way that is not known, or modules import in a circle.
    """
    ours = {name: body.decode() for name, body in sources.items() if not name.startswith(vendor)}
    loads = _loads(ours, main, vendor)
    modules = [
        f"{name!r}: () => {{\n{_body(name, text, main, loads, vendor)}}},\n"
        for name, text in ours.items()
        if name != main
    ]
    body = _body(main, ours[main], main, loads, vendor)
    return Joined(f"{_START}const $modules = {{\n{''.join(modules)}}};\n{body}".encode(), loads)


def _resolved(name: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


def _loads(ours: Mapping[str, str], main: str, vendor: str) -> dict[str, tuple[str, ...]]:
    """Find what of others each module needs, through all that it imports."""
    found: dict[str, tuple[str, ...]] = {}

    def look(name: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if name in above:
            raise ValueError(f"console modules import in a circle: {' → '.join((*above, name))}")
        if name.startswith(vendor):
            return (name,)
        if name not in ours:
            raise ValueError(f"{above[-1]} imports {name}, which is not there")
        if name not in found:
            imported = (_resolved(name, path) for _, path in _IMPORT.findall(ours[name]))
            needed = {one for other in imported for one in look(other, (*above, name))}
            found[name] = tuple(sorted(needed))
        return found[name]

    for name in ours:
        look(name, ())
    if found[main]:
        raise ValueError(f"{main} needs {found[main]} at once; only pages may")
    return found


def _body(name: str, text: str, main: str, loads: Mapping[str, tuple[str, ...]], vendor: str) -> str:
    """Turn one module's text into statements of a function, the exports returned at the end."""

    def taken(match: re.Match[str]) -> str:
        names, source = match[1], _resolved(name, match[2])
        if source.startswith(vendor):
            return f"const {names} = $vendor[{_from(main, source)!r}].default;"
        renamed = _RENAMED.sub(r"\1: \2", names)
        return f"const {renamed} = $of({source!r});"

    def loaded(match: re.Match[str]) -> str:
        source = _resolved(name, match[1])
        return f"$load({source!r}, {[_from(main, one) for one in loads[source]]!r})"

    exported = _EXPORT.findall(text)
    for names in _EXPORTS.findall(text):
        exported += names.split(", ")
    text = _EXPORTS.sub("", _EXPORT.sub("", _LOAD.sub(loaded, _IMPORT.sub(taken, text))))
    if other := _OTHER.search(text):
        raise ValueError(f"{name}: not known how to join {other[0]!r}")
    if not exported:
        return text
    return f"{text}return {{ {', '.join(exported)} }};\n"


def _from(main: str, path: str) -> str:
    """Name a file as the script at ``main`` has to."""
    relative = posixpath.relpath(path, posixpath.dirname(main))
    return relative if relative.startswith(".") else f"./{relative}"

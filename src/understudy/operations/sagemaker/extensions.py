"""Extensions of AWS's API: tags ``understudy:NAME`` given when a resource is created.

Owns which names and values there are, per kind of resource.  Refuses all others, and refuses to change
them later: they are settings of a resource that can't be changed, written where unmodified clients can
write them.  Main functions: :func:`extensions_of`, :func:`refuse_changed_extensions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from understudy.core.errors import ValidationException
from understudy.operations.sagemaker.wording import CONFIG, EXPERIMENT

PREFIX = "understudy:"

# Per kind of resource: the name without its prefix, and the values it can have.
EXTENSIONS: dict[str, dict[str, tuple[str, ...]]] = {
    CONFIG: {
        # Any number of shadows beside any number of production variants; AWS has one of each.
        "shadows": ("many",),
        # An answer leaves after its captured record is on disk; AWS's capture is best effort.
        "capture": ("durable",),
    },
    # Of the capture that the test's DataStorageConfig asks for.
    EXPERIMENT: {"capture": ("durable",)},
}


def _is_extension(key: str) -> bool:
    return key.lower().startswith(PREFIX)


def extensions_of(what: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Read the extensions out of a new resource's tags, names without the prefix.

    Args:
        what: Kind of resource, as ``wording`` calls it.
    Raises:
        ValidationException: an ``understudy:`` tag that this kind does not have, or a value it does not have.
    """
    known = EXTENSIONS.get(what, {})
    found: dict[str, str] = {}
    for key, value in tags.items():
        if not _is_extension(key):
            continue
        name = key.removeprefix(PREFIX)
        if value not in known.get(name, ()):
            problem = f'value "{value}" of tag "{key}"' if name in known else f'tag "{key}"'
            raise ValidationException(f"Unknown {problem}: {_told(what, known)}")
        found[name] = value
    return found


def _told(what: str, known: Mapping[str, tuple[str, ...]]) -> str:
    if not known:
        return f'{what} tags must not begin with "{PREFIX}".'
    listed = ", ".join(f"{PREFIX}{name}={value}" for name, values in known.items() for value in values)
    return f"{what} tags that Understudy knows are {listed}."


def refuse_changed_extensions(
    keys: Iterable[str], before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """Refuse to add, change or remove extensions of a resource that exists.

    Args:
        keys: What the request names; one that changes nothing is fine.
        before: All tags of the resource.
        after: All tags as they would be.
    Raises:
        ValidationException: an extension would not be what it was.
    """
    for key in keys:
        if _is_extension(key) and before.get(key) != after.get(key):
            raise ValidationException(
                f'Tag "{key}" can only be set when the resource is created: create another one with it.'
            )

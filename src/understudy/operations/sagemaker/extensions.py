"""Extensions of AWS's API: tags ``understudy:NAME`` of a resource.

Owns which names and values there are, per kind of resource.  Refuses all others: they are settings, written
where unmodified clients can write them.  Those of an endpoint may change at any time, as an endpoint may;
those of all other resources are settled when the resource is made.
Main functions: :func:`extensions_of`, :func:`refuse_changed_extensions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from understudy.core.assignment import ATTRIBUTE, LOG_ALL, LOG_OFF, SESSION, is_sticky_value
from understudy.core.autopilot import MODES
from understudy.core.errors import ValidationException
from understudy.operations.sagemaker.wording import CONFIG, ENDPOINT, EXPERIMENT

PREFIX = "understudy:"


@dataclass(frozen=True)
class Words:
    """Values that are one of a few words."""

    words: tuple[str, ...]

    def allows(self, value: str) -> bool:
        """Tell whether a tag can have this value."""
        return value in self.words

    def told(self) -> str:
        """Name the values for an error message."""
        return " or ".join(self.words)


@dataclass(frozen=True)
class Units:
    """What a unit of sticky assignment can be."""

    def allows(self, value: str) -> bool:
        """Tell whether a tag can have this value."""
        return is_sticky_value(value)

    def told(self) -> str:
        """Name the values for an error message."""
        return f"{SESSION} or {ATTRIBUTE}NAME"


@dataclass(frozen=True)
class WholeNumbers:
    """Values that are whole numbers within bounds, both included."""

    lowest: int
    highest: int

    def allows(self, value: str) -> bool:
        """Tell whether a tag can have this value: digits only, as every reader understands them.

        >>> [WholeNumbers(0, 10).allows(value) for value in ("0", "10", "11", "-1", "1.5", "01", "")]
        [True, True, False, False, False, False, False]
        """
        return value.isascii() and value.isdigit() and str(int(value)) == value and self._holds(int(value))

    def _holds(self, number: int) -> bool:
        return self.lowest <= number <= self.highest

    def told(self) -> str:
        """Name the values for an error message."""
        return f"{self.lowest}...{self.highest}"


Values = Words | WholeNumbers | Units

# Below 5 % of a processor a worker would answer no ping for seconds; above 64 processors nobody asked.
SHADOW_CPU_PERCENT = WholeNumbers(5, 6400)
# It is production's own time: a small share tells as much.
NOISE_PERCENT = WholeNumbers(0, 10)

# Per kind of resource: the name without its prefix, and the values it can have.
EXTENSIONS: dict[str, dict[str, Values]] = {
    CONFIG: {
        # Any number of shadows beside any number of production variants; AWS has one of each.
        "shadows": Words(("many",)),
        # An answer leaves after its captured record is on disk; AWS's capture is best effort.
        "capture": Words(("durable",)),
        # The most that each instance of a shadow may use of the processors; 100 is one of them.
        "shadow-cpu-percent": SHADOW_CPU_PERCENT,
        # So many of the captured requests are sent to production a second time, to learn its noise.
        "noise-percent": NOISE_PERCENT,
    },
    ENDPOINT: {
        # The same user, or session, is answered by the same variant.
        "sticky": Units(),
        # Which requests are logged with their assignment; without it those with an InferenceId, and all of a
        # sticky endpoint.
        "assignments": Words((LOG_ALL, LOG_OFF)),
        # Weights follow verdicts, or what is likeliest the best.
        "autopilot": Words(MODES),
    },
    EXPERIMENT: {
        # Of the capture that the test's DataStorageConfig asks for.
        "capture": Words(("durable",)),
        "shadow-cpu-percent": SHADOW_CPU_PERCENT,
        "noise-percent": NOISE_PERCENT,
    },
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
        if name not in known or not known[name].allows(value):
            problem = f'value "{value}" of tag "{key}"' if name in known else f'tag "{key}"'
            raise ValidationException(f"Unknown {problem}: {_told(what, known)}")
        found[name] = value
    return found


def _told(what: str, known: Mapping[str, Values]) -> str:
    if not known:
        return f'{what} tags must not begin with "{PREFIX}".'
    listed = ", ".join(f"{PREFIX}{name}={values.told()}" for name, values in known.items())
    return f"{what} tags that Understudy knows are {listed}."


def refuse_changed_extensions(
    keys: Iterable[str], before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """Refuse to add, change or remove extensions of a resource that exists; not for endpoints.

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

"""CloudWatch Logs' filter patterns for unstructured lines.

Owns terms (all must occur), ``"quoted phrases"``, ``-excluded`` and ``?any of these``.  Refuses patterns for
JSON, for space-delimited lines and regular expressions, by name.
Main function: :func:`parse_pattern`.

Differs from AWS: a term is found inside a longer word too.
Source: "Filter pattern syntax", Amazon CloudWatch Logs User Guide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TERM = re.compile(r'\s*(?P<sign>[-?]?)(?:"(?P<phrase>(?:[^"\\]|\\.)*)"|(?P<word>\w+))(?=\s|$)')
_ESCAPED = re.compile(r"\\(.)")


class PatternError(ValueError):
    """A pattern that is none, or of a kind this version has not; the text is for the caller."""


@dataclass(frozen=True)
class Pattern:
    """A filter pattern understood: case matters, an empty one matches every line."""

    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()

    def matches(self, line: str) -> bool:
        """Tell whether a line passes."""
        return (
            all(term in line for term in self.required)
            and not any(term in line for term in self.excluded)
            and (not self.any_of or any(term in line for term in self.any_of))
        )


def parse_pattern(text: str) -> Pattern:
    """Understand a filter pattern.

    Raises:
        PatternError: it is none, or of a kind this version has not.

    >>> parse_pattern('ERROR -"timed out"').matches("ERROR: no such key")
    True
    """
    text = text.strip()
    for start, kind in (("{", "JSON"), ("[", "space-delimited"), ("%", "regular expression")):
        if text.startswith(start):
            raise PatternError(
                f"Understudy does not support {kind} filter patterns; it supports terms, "
                '"quoted phrases", -exclusion and ?any'
            )
    found: dict[str, list[str]] = {"": [], "-": [], "?": []}
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            term = text[at:].split()[0]
            raise PatternError(
                f"Invalid character(s) in term '{term}': put terms with other characters than letters, "
                "digits and underscores in double quotes"
            )
        phrase = match["phrase"]
        found[match["sign"]].append(match["word"] if phrase is None else _ESCAPED.sub(r"\1", phrase))
        at = match.end()
    return Pattern(tuple(found[""]), tuple(found["-"]), tuple(found["?"]))

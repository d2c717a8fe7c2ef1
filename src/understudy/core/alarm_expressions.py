"""The rule of a composite alarm: ``ALARM(a) AND NOT (OK("b") OR FALSE)``.

Owns the grammar, the value of a rule, and the search for circles.  Refuses what CloudWatch refuses: too many
children or elements, unknown words.  Main functions: :func:`parse_rule`, :func:`is_true`.

Source: PutCompositeAlarm's AlarmRule, Amazon CloudWatch API Reference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from understudy.core.alarms import Alarm, AlarmState, alarm_name_of

MAX_CHILDREN = 100
MAX_ELEMENTS = 500
MAX_DEPTH = 60


class RuleError(ValueError):
    """No rule; the text says why, for the caller."""


@dataclass(frozen=True)
class Constant:
    """TRUE or FALSE."""

    value: bool


@dataclass(frozen=True)
class InState:
    """``ALARM("name")`` and its kin."""

    state: AlarmState
    name: str


@dataclass(frozen=True)
class Not:
    """Negation."""

    operand: Rule


@dataclass(frozen=True)
class All:
    """Operands joined by AND."""

    operands: tuple[Rule, ...]


@dataclass(frozen=True)
class AnyOf:
    """Operands joined by OR."""

    operands: tuple[Rule, ...]


Rule = Constant | InState | Not | All | AnyOf

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<parenthesis>[()])
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<word>[^\s()"]+)
    )""",
    re.VERBOSE,
)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0
        self.elements = 0

    def parse(self) -> Rule:
        rule = self._any()
        if self._at < len(self._tokens):
            raise RuleError(f"unexpected {self._tokens[self._at][1]!r}")
        return rule

    def _peek(self) -> str:
        """Return the coming word in capitals; empty for anything else."""
        if self._at < len(self._tokens) and self._tokens[self._at][0] != "text":
            return self._tokens[self._at][1].upper()
        return ""

    def _take(self, word: str) -> bool:
        if self._peek() == word:
            self._at += 1
            return True
        return False

    def _any(self) -> Rule:
        operands = [self._all()]
        while self._take("OR"):
            operands.append(self._all())
        return operands[0] if len(operands) == 1 else AnyOf(tuple(operands))

    def _all(self) -> Rule:
        operands = [self._one()]
        while self._take("AND"):
            operands.append(self._one())
        return operands[0] if len(operands) == 1 else All(tuple(operands))

    def _one(self) -> Rule:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RuleError(f"nested deeper than {MAX_DEPTH}")
        rule = self._operand()
        self._depth -= 1
        return rule

    def _operand(self) -> Rule:
        if self._take("NOT"):
            return Not(self._one())
        self.elements += 1
        if self._take("("):
            rule = self._any()
            self._close()
            return rule
        word = self._peek()
        if word in ("TRUE", "FALSE"):
            self._at += 1
            return Constant(word == "TRUE")
        if word in AlarmState.__members__:
            self._at += 1
            return InState(AlarmState[word], self._name(word))
        found = self._tokens[self._at][1] if self._at < len(self._tokens) else "the end"
        raise RuleError(
            f"unexpected {found!r}; ALARM, OK, INSUFFICIENT_DATA, NOT, TRUE, FALSE or '(' goes here"
        )

    def _name(self, function: str) -> str:
        if not self._take("("):
            raise RuleError(f"{function} needs the name of an alarm in parentheses")
        if self._at >= len(self._tokens) or self._tokens[self._at][0] == "parenthesis":
            raise RuleError(f"{function} needs the name of an alarm")
        kind, text = self._tokens[self._at]
        self._at += 1
        self._close()
        return alarm_name_of(re.sub(r"\\(.)", r"\1", text[1:-1]) if kind == "text" else text)

    def _close(self) -> None:
        if not self._take(")"):
            raise RuleError("a closing parenthesis is missing")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise RuleError(f"unexpected {text[at:].lstrip()[0]!r}")
        at = match.end()
        kind = str(match.lastgroup)
        yield kind, match[kind]


def parse_rule(text: str) -> Rule:
    """Understand a rule.

    Raises:
        RuleError: it is none, or beyond CloudWatch's limits.

    >>> parse_rule('ALARM(a) AND NOT OK("b c")').operands[1]
    Not(operand=InState(state=<AlarmState.OK: 'OK'>, name='b c'))
    """
    parser = _Parser(text)
    rule = parser.parse()
    if parser.elements > MAX_ELEMENTS:
        raise RuleError(f"more than {MAX_ELEMENTS} elements")
    if len(children_of(rule)) > MAX_CHILDREN:
        raise RuleError(f"more than {MAX_CHILDREN} alarms")
    return rule


def children_of(rule: Rule) -> list[str]:
    """Name the alarms that a rule reads, in the order in which they are first named."""
    return list(dict.fromkeys(found.name for found in _walk(rule) if isinstance(found, InState)))


def read_by(alarm: Alarm) -> list[str]:
    """Name the alarms that a composite alarm reads: those of its rule, and its suppressor."""
    suppressor = alarm.request.get("ActionsSuppressor")
    return children_of(parse_rule(alarm.request["AlarmRule"])) + (
        [] if suppressor is None else [alarm_name_of(suppressor)]
    )


def _walk(rule: Rule) -> Iterator[Rule]:
    yield rule
    if isinstance(rule, Not):
        yield from _walk(rule.operand)
    elif isinstance(rule, All | AnyOf):
        for operand in rule.operands:
            yield from _walk(operand)


def is_true(rule: Rule, states: Mapping[str, AlarmState]) -> bool:
    """Compute a rule.

    Args:
        states: By alarm name; an alarm that is not there is in no state.
    """
    if isinstance(rule, Constant):
        return rule.value
    if isinstance(rule, InState):
        return states.get(rule.name) is rule.state
    if isinstance(rule, Not):
        return not is_true(rule.operand, states)
    if isinstance(rule, All):
        return all(is_true(operand, states) for operand in rule.operands)
    return any(is_true(operand, states) for operand in rule.operands)


def leads_back(name: str, children: Mapping[str, Collection[str]]) -> bool:
    """Tell whether following children from an alarm comes back to it.

    Args:
        children: Of every composite alarm, by its name; the one in question as it would be.

    >>> leads_back("a", {"a": ["b"], "b": ["c", "a"]}), leads_back("a", {"a": ["b"], "b": ["c"]})
    (True, False)
    """
    waiting, seen = list(children.get(name, ())), set[str]()
    while waiting:
        child = waiting.pop()
        if child == name:
            return True
        if child not in seen:
            seen.add(child)
            waiting += children.get(child, ())
    return False

"""CloudWatch's metric math: expressions over time series.

Owns the grammar and the arithmetic.  Refuses what CloudWatch computes from elsewhere (SEARCH, anomaly
bands, Lambda, ...) by name, and expressions that are too deep or too much work.
Main functions: :func:`parse_expression`, :func:`evaluate`.

Source: "Using math expressions with CloudWatch metrics", Amazon CloudWatch User Guide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from understudy.core.metric_functions import FUNCTIONS, UNSUPPORTED
from understudy.core.metric_values import Argument, MathError, Scope, TimeSeries, Value, Word, combine

MAX_LENGTH = 2048
MAX_DEPTH = 40

# --- the tree ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True)
class Text:
    """A string; only METRICS takes one."""

    value: str


@dataclass(frozen=True)
class Name:
    """The Id of another query, or REPEAT or LINEAR."""

    name: str


@dataclass(frozen=True)
class Negated:
    """Unary minus."""

    operand: Node


@dataclass(frozen=True)
class Chain:
    """Operators of one precedence, from left to right: ``first (operator operand)*``."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Call:
    """A function and its arguments."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Listing:
    """``[m1, m2]``."""

    items: tuple[Node, ...]


Node = Number | Text | Name | Negated | Chain | Call | Listing

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)
      | (?P<name>[A-Za-z][A-Za-z0-9_]*)
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<operator>&&|\|\||[=!<>]=|[-+*/^()<>,\[\]])
    )""",
    re.VERBOSE | re.ASCII,
)
_SPELLINGS = {"&&": "AND", "||": "OR"}
_LEVELS = ({"OR"}, {"AND"}, {"==", "!=", "<", "<=", ">", ">="}, {"+", "-"}, {"*", "/"})  # loosest first
_KEYWORDS = {"REPEAT", "LINEAR"}
_QUERY = re.compile(r"\s*SELECT\s", re.IGNORECASE)
_ID = re.compile(r"[a-z][a-zA-Z0-9_]*", re.ASCII)


class _Parser:
    """Recursive descent; every nesting costs depth, chains of operators do not."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._level(0)
        if self._peek() != ("end", ""):
            raise MathError(f"unexpected {self._peek()[1]!r}")
        return node

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _take(self, *operators: str) -> str | None:
        kind, text = self._peek()
        if kind in ("operator", "word") and text in operators:
            self._at += 1
            return text
        return None

    def _expect(self, operator: str) -> None:
        if self._take(operator) is None:
            raise MathError(f"expected {operator!r} before {self._peek()[1] or 'the end'!r}")

    def _level(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        first = self._level(level + 1)
        rest: list[tuple[str, Node]] = []
        while operator := self._take(*_LEVELS[level]):
            rest.append((operator, self._level(level + 1)))
        return Chain(first, tuple(rest)) if rest else first

    def _unary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MathError(f"nested deeper than {MAX_DEPTH}")
        if self._take("-"):
            node: Node = Negated(self._unary())
        elif self._take("+"):
            node = self._unary()
        else:
            node = self._primary()
            if self._take("^"):
                node = Chain(node, (("^", self._unary()),))
        self._depth -= 1
        return node

    def _primary(self) -> Node:
        kind, text = self._peek()
        if kind == "number":
            self._at += 1
            if float(text) == math.inf:
                raise MathError(f"{text} is too large")
            return Number(float(text))
        if kind == "text":
            self._at += 1
            return Text(text[1:-1])
        if kind == "name":
            self._at += 1
            if self._take("("):
                return Call(text.upper(), self._list(")"))
            return Name(text)
        if self._take("("):
            node = self._level(0)
            self._expect(")")
            return node
        if self._take("["):
            return Listing(self._list("]"))
        raise MathError(f"unexpected {text or 'end'!r}")

    def _list(self, closing: str) -> tuple[Node, ...]:
        if self._take(closing):
            return ()
        items = [self._level(0)]
        while self._take(","):
            items.append(self._level(0))
        self._expect(closing)
        return tuple(items)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    if len(text) > MAX_LENGTH:
        raise MathError(f"longer than {MAX_LENGTH} characters")
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise MathError(f"unexpected {text[at:].lstrip()[0]!r}")
        at = match.end()
        kind, found = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "name" and found.upper() in ("AND", "OR"):
            kind, found = "word", found.upper()
        yield kind, _SPELLINGS.get(found, found)
    yield "end", ""


def parse_expression(text: str) -> Node:
    """Understand an expression.

    Args:
        text: At most MAX_LENGTH characters.

    Raises:
        MathError: it is none.

    >>> parse_expression("m1 / 2")
    Chain(first=Name(name='m1'), rest=(('/', Number(value=2.0)),))
    """
    if _QUERY.match(text):
        raise MathError("Metrics Insights queries (SELECT) are not supported by Understudy")
    node = _Parser(text).parse()
    _refuse_unknown(node)
    return node


def references(node: Node) -> set[str]:
    """Name the Ids an expression reads, METRICS() aside."""
    return {found.name for found in _walk(node) if isinstance(found, Name) and found.name not in _KEYWORDS}


def functions_of(node: Node) -> set[str]:
    """Name the functions an expression calls."""
    return {found.function for found in _walk(node) if isinstance(found, Call)}


def _walk(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        if isinstance(found, Negated):
            waiting.append(found.operand)
        elif isinstance(found, Chain):
            waiting += [found.first, *(operand for _, operand in found.rest)]
        elif isinstance(found, Call):
            waiting += found.arguments
        elif isinstance(found, Listing):
            waiting += found.items


def _refuse_unknown(node: Node) -> None:
    for found in _walk(node):
        if isinstance(found, Name) and found.name not in _KEYWORDS and not _ID.fullmatch(found.name):
            raise MathError(f"{found.name!r} is no Id: Ids begin with a lowercase letter")
        if isinstance(found, Call) and found.function not in FUNCTIONS:
            if found.function in UNSUPPORTED:
                raise MathError(f"the function {found.function} is not supported by Understudy")
            raise MathError(f"unknown function {found.function}")


# --- evaluation --------------------------------------------------------------------------------------


def evaluate(node: Node, scope: Scope) -> Value:
    """Compute an expression.

    Raises:
        MathError: operands don't fit, an Id is unknown, or it is too much work.
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Name):
        if node.name not in scope.values:
            raise MathError(f"no query has the Id {node.name!r}")
        return scope.values[node.name]
    if isinstance(node, Text):
        raise MathError(f"unexpected text {node.value!r}")
    if isinstance(node, Negated):
        return combine("-", 0.0, evaluate(node.operand, scope), scope.work)
    if isinstance(node, Chain):
        value = evaluate(node.first, scope)
        for operator, operand in node.rest:
            value = combine(operator, value, evaluate(operand, scope), scope.work)
        return value
    if isinstance(node, Listing):
        found: list[TimeSeries] = []
        for item in node.items:
            value = evaluate(item, scope)
            if isinstance(value, float):
                raise MathError("an array holds time series, not numbers")
            more = value if isinstance(value, list) else [value]
            scope.work.spend(len(more))  # arrays of arrays of arrays grow fast
            found += more
        return found
    return FUNCTIONS[node.function]([_argument(argument, scope) for argument in node.arguments], scope)


def _argument(node: Node, scope: Scope) -> Argument:
    if isinstance(node, Text):
        return Word(node.value, quoted=True)
    if isinstance(node, Name) and node.name in _KEYWORDS:
        return Word(node.name, quoted=False)
    return evaluate(node, scope)

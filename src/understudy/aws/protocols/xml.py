"""XML bodies by shape, both ways; the query protocol's answers and all of S3's.

Refuses document types and entities (threat T14) and nesting deeper than 64.  Main functions:
:func:`parse_xml`, :func:`read_structure`, :func:`write_structure`.
"""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from botocore.model import Shape

from understudy.aws.messages import MAX_DEPTH
from understudy.aws.protocols.scalars import Malformed, malformed, parse_text, render_text

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
# Characters that XML 1.0 cannot carry, not even as references.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Node:
    """An element: local name, attributes, children and text."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Node] = []
        self.text = ""


def parse_xml(body: bytes) -> Node:
    """Parse a document without DTD, entities or processing of anything external.

    Raises:
        Malformed: not well-formed, a DTD, or too deep (wire: MalformedXML).
    """
    root = Node("", {})
    stack = [root]

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise Malformed(f"XML nested deeper than {MAX_DEPTH}.", code="MalformedXML")
        node = Node(name.rpartition(":")[2], attributes)
        stack[-1].children.append(node)
        stack.append(node)

    def end(name: str) -> None:
        stack.pop()

    def data(text: str) -> None:
        stack[-1].text += text

    def refuse(*_: Any) -> None:
        raise Malformed("XML with a DTD is not accepted.", code="MalformedXML")

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise Malformed(
            "The XML you provided was not well-formed or did not validate against our published schema"
            f" (line {error.lineno}).",
            code="MalformedXML",
        ) from None
    return root.children[0]


# --- reading ---------------------------------------------------------------------------------------


def read_structure(shape: Shape, node: Node, path: str = "") -> dict[str, Any]:
    """Read a structure from an element."""
    by_name: dict[str, list[Node]] = {}
    for child in node.children:
        by_name.setdefault(child.name, []).append(child)
    parsed: dict[str, Any] = {}
    for name, member in shape.members.items():
        wire_name = member.serialization.get("name", name)
        if member.serialization.get("xmlAttribute"):
            if wire_name in node.attributes:
                parsed[name] = node.attributes[wire_name]
            continue
        if member.serialization.get("location") is not None:
            continue
        found = by_name.get(wire_name)
        if found is not None:
            parsed[name] = _read(member, found, f"{path}.{name}" if path else name)
    return parsed


def _read(shape: Shape, nodes: list[Node], path: str) -> Any:
    kind = shape.type_name
    flattened = shape.serialization.get("flattened")
    if kind == "list":
        items = nodes
        if not flattened:
            item_name = shape.member.serialization.get("name", "member")
            items = [child for child in nodes[0].children if child.name == item_name]
        return [_read(shape.member, [item], f"{path}.{number}") for number, item in enumerate(items, start=1)]
    if kind == "map":
        entries = nodes if flattened else [child for child in nodes[0].children if child.name == "entry"]
        return dict(_read_entry(shape, entry, path) for entry in entries)
    if len(nodes) > 1:
        raise malformed(path, "one element")
    if kind == "structure":
        return read_structure(shape, nodes[0], path)
    return parse_text(shape, nodes[0].text, path)


def _read_entry(shape: Shape, entry: Node, path: str) -> tuple[Any, Any]:
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    keys = [child for child in entry.children if child.name == key_name]
    values = [child for child in entry.children if child.name == value_name]
    if len(keys) != 1 or len(values) != 1:
        raise malformed(path, "one key and one value per entry")
    return _read(shape.key, keys, path), _read(shape.value, values, path)


# --- writing ---------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Escape text for XML; what XML cannot carry becomes U+FFFD."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return _FORBIDDEN.sub("\ufffd", text).replace("\r", "&#13;")


def element(name: str, text: str) -> str:
    """Write one element with text."""
    return f"<{name}>{escape(text)}</{name}>"


def write_structure(shape: Shape, value: dict[str, Any]) -> str:
    """Write the members of a structure (without the element around them); header-bound ones are left out.

    Raises:
        KeyError: a member that the model does not have (a fault of the operation).
    """
    parts = []
    for name, item in value.items():
        member = shape.members[name]
        bound = member.serialization.get("location") is not None or member.serialization.get("xmlAttribute")
        if item is not None and not bound:
            parts.append(_write(member, item, _element_name(member, name)))
    return "".join(parts)


def _element_name(shape: Shape, name: str) -> str:
    if shape.type_name == "list" and shape.serialization.get("flattened"):
        inner = shape.member.serialization.get("name")
        if inner is not None:
            return str(inner)
    return str(shape.serialization.get("name", name))


def _write(shape: Shape, value: Any, name: str) -> str:
    kind = shape.type_name
    flattened = shape.serialization.get("flattened")
    if kind == "structure":
        return f"<{name}{_attributes(shape, value)}>{write_structure(shape, value)}</{name}>"
    if kind == "list":
        if flattened:
            return "".join(_write(shape.member, item, name) for item in value)
        item_name = shape.member.serialization.get("name", "member")
        inner = "".join(_write(shape.member, item, item_name) for item in value)
        return f"<{name}>{inner}</{name}>"
    if kind == "map":
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        outer = name if flattened else "entry"
        inner = "".join(
            f"<{outer}>{_write(shape.key, key, key_name)}{_write(shape.value, item, value_name)}</{outer}>"
            for key, item in value.items()
        )
        return inner if flattened else f"<{name}>{inner}</{name}>"
    return element(name, render_text(shape, value, "iso8601"))


def _attributes(shape: Shape, value: dict[str, Any]) -> str:
    """Write a structure's xmlAttribute members, with the namespace that their prefix needs."""
    written = ""
    for name, member in shape.members.items():
        if member.serialization.get("xmlAttribute") and value.get(name) is not None:
            wire_name = member.serialization.get("name", name)
            prefix = wire_name.partition(":")[0]
            namespace = shape.serialization.get("xmlNamespace")
            if ":" in wire_name and isinstance(namespace, dict):
                written += f' xmlns:{prefix}="{escape(namespace["uri"])}"'
            text = escape(str(value[name])).replace("\n", "&#10;").replace("\t", "&#9;")
            written += f' {wire_name}="{text}"'
    return written

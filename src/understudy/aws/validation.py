"""Constraints of botocore's shapes, enforced as AWS does: all findings in one message.

boto3 itself checks almost nothing (no maximum, pattern or enum).  Main function: :func:`validate`.
Patterns run under the ``regex`` package with a timeout, after the length was checked, because two of
SageMaker's hang on 60 characters (threat T15).

Differs from AWS: unknown members are refused, not ignored, so that a misspelt one is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import regex
from botocore.model import Shape

from understudy.core.errors import ApiError

PATTERN_TIMEOUT_S = 0.05
MAX_FINDINGS = 50
MAX_SHOWN_CHARACTERS = 1024

# How each service names a broken constraint; (code, status).
CODES = {
    "sagemaker": "ValidationException",
    "sagemaker-runtime": "ValidationError",
    "application-autoscaling": "ValidationException",
    "cloudwatch": "ValidationError",
    "sts": "ValidationError",
    "iam": "ValidationError",
    "logs": "InvalidParameterException",
    "s3": "InvalidArgument",
}


def validate(service: str, shape: Shape | None, parameters: Mapping[str, Any]) -> None:
    """Hold parameters to every constraint of their shape.

    Args:
        service: botocore's service name: decides the error's code.
    Raises:
        ApiError: 400 with all findings, in AWS's wording.
    """
    findings: list[str] = []
    if shape is not None:
        _check_structure(shape, parameters, "", findings)
    elif parameters:
        findings.extend(f"Unknown member '{name}'" for name in parameters)
    if findings:
        plural = "error" if len(findings) == 1 else "errors"
        raise ApiError(
            f"{len(findings)} validation {plural} detected: " + "; ".join(findings[:MAX_FINDINGS]),
            code=CODES[service],
            status=400,
        )


def _check_structure(shape: Shape, value: Mapping[str, Any], path: str, findings: list[str]) -> None:
    members = shape.members
    for name in shape.required_members:
        if value.get(name) is None:
            _find(findings, "null", _join(path, name), "Member must not be null", quote=False)
    for name, item in value.items():
        member = members.get(name)
        if member is None:
            findings.append(
                f"Unknown member '{name[:128]}' at '{path or 'the request'}': the API has no such member"
            )
        elif item is not None:
            _check(member, item, _join(path, name), findings)
    if getattr(shape, "is_tagged_union", False):
        given = [name for name, item in value.items() if item is not None]
        if len(given) != 1:
            findings.append(
                f"Value at '{path}' failed to satisfy constraint: Member must have exactly one member set"
            )


def _check(shape: Shape, value: Any, path: str, findings: list[str]) -> None:
    kind = shape.type_name
    if kind == "structure":
        if not getattr(shape, "is_document_type", False):
            _check_structure(shape, value, path, findings)
    elif kind == "list":
        _check_list(shape, value, path, findings)
    elif kind == "map":
        _check_map(shape, value, path, findings)
    else:
        for constraint in _broken(shape, value):
            _find(findings, value, path, constraint, sensitive="sensitive" in shape.metadata)


def _check_list(shape: Shape, value: list[Any], path: str, findings: list[str]) -> None:
    for constraint in _length(shape, len(value)):
        _find(findings, value, path, constraint, sensitive=_holds_secrets(shape.member))
    nested = shape.member.type_name in ("structure", "list", "map")
    for number, item in enumerate(value, start=1):
        if item is None:
            _find(findings, "null", f"{path}.{number}.member", "Member must not be null", quote=False)
        elif nested:
            _check(shape.member, item, f"{path}.{number}.member", findings)
    if not nested and any(_broken(shape.member, item) for item in value if item is not None):
        rules = ", ".join(_rules(shape.member))
        _find(
            findings,
            value,
            path,
            f"Member must satisfy constraint: [{rules}]",
            sensitive=_holds_secrets(shape.member),
        )


def _check_map(shape: Shape, value: Mapping[str, Any], path: str, findings: list[str]) -> None:
    secret = _holds_secrets(shape.value) or _holds_secrets(shape.key)
    for constraint in _length(shape, len(value)):
        _find(findings, value, path, constraint, sensitive=secret)
    if any(_broken(shape.key, key) for key in value):
        _find(
            findings,
            value,
            path,
            f"Map keys must satisfy constraint: [{', '.join(_rules(shape.key))}]",
            sensitive=secret,
        )
    nested = shape.value.type_name in ("structure", "list", "map")
    for key, item in value.items():
        if item is None:
            _find(findings, "null", f"{path}.{key}.member", "Member must not be null", quote=False)
        elif nested:
            _check(shape.value, item, f"{path}.{key}.member", findings)
    if not nested and any(_broken(shape.value, item) for item in value.values() if item is not None):
        _find(
            findings,
            value,
            path,
            f"Map value must satisfy constraint: [{', '.join(_rules(shape.value))}]",
            sensitive=secret,
        )


# --- one value -------------------------------------------------------------------------------------


def _broken(shape: Shape, value: Any) -> list[str]:
    """Name the constraints of a scalar that a value breaks."""
    kind = shape.type_name
    metadata = shape.metadata
    if kind in ("string", "char", "character"):
        broken = _length(shape, len(value))
        too_long = "max" in metadata and len(value) > metadata["max"]
        if "pattern" in metadata and not too_long and not _matches(metadata["pattern"], value):
            broken.append(f"Member must satisfy regular expression pattern: {metadata['pattern']}")
        if shape.enum and value not in shape.enum:
            broken.append(f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
        return broken
    if kind == "blob":
        return _length(shape, len(value)) if isinstance(value, bytes) else []
    if kind in ("integer", "long", "float", "double"):
        return [
            f"Member must have value {relation} than or equal to {bound}"
            for relation, bound, wrong in (
                ("less", metadata.get("max"), "max" in metadata and value > metadata["max"]),
                ("greater", metadata.get("min"), "min" in metadata and value < metadata["min"]),
            )
            if wrong
        ]
    return []


def _length(shape: Shape, length: int) -> list[str]:
    broken = []
    if "max" in shape.metadata and length > shape.metadata["max"]:
        broken.append(f"Member must have length less than or equal to {shape.metadata['max']}")
    if "min" in shape.metadata and length < shape.metadata["min"]:
        broken.append(f"Member must have length greater than or equal to {shape.metadata['min']}")
    return broken


def _rules(shape: Shape) -> list[str]:
    """Name every constraint of a scalar, as AWS does for members of lists and maps."""
    metadata = shape.metadata
    rules = []
    word = "value" if shape.type_name in ("integer", "long", "float", "double") else "length"
    if "max" in metadata:
        rules.append(f"Member must have {word} less than or equal to {metadata['max']}")
    if "min" in metadata:
        rules.append(f"Member must have {word} greater than or equal to {metadata['min']}")
    if "pattern" in metadata:
        rules.append(f"Member must satisfy regular expression pattern: {metadata['pattern']}")
    if getattr(shape, "enum", None):
        rules.append(f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    return rules


def _matches(pattern: str, value: str) -> bool:
    try:
        return compile_pattern(pattern).fullmatch(value, timeout=PATTERN_TIMEOUT_S) is not None
    except TimeoutError:
        return False


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Any:
    """Compile one of AWS's patterns (written for Java, whose strings are UTF-16)."""
    rewritten = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    rewritten = rewritten.replace(r"\ud800\udc00-\udbff\udfff", r"\U00010000-\U0010FFFF")
    return regex.compile(rewritten, regex.VERSION0)


# --- wording ---------------------------------------------------------------------------------------


def _find(
    findings: list[str],
    value: Any,
    path: str,
    constraint: str,
    *,
    quote: bool = True,
    sensitive: bool = False,
) -> None:
    if sensitive:
        shown = "Value"
    else:
        text = _show(value)
        if len(text) > MAX_SHOWN_CHARACTERS:
            text = text[:MAX_SHOWN_CHARACTERS] + "..."
        shown = f"Value '{text}'" if quote else f"Value {text}"
    findings.append(f"{shown} at '{path}' failed to satisfy constraint: {constraint}")


def _show(value: Any) -> str:
    """Write a value as Java's toString would."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={_show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]"
    return "null" if value is None else str(value)


def _holds_secrets(shape: Shape) -> bool:
    """Tell whether a shape, or a member of it, must not be shown."""
    if "sensitive" in shape.metadata:
        return True
    if shape.type_name == "structure":
        return any("sensitive" in member.metadata for member in shape.members.values())
    return False


def _join(path: str, name: str) -> str:
    camel = name[:1].lower() + name[1:]
    return f"{path}.{camel}" if path else camel

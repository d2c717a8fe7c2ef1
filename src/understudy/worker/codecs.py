"""Request bodies into rows of numbers or records.

Owns text/csv, application/json, application/jsonlines, application/x-npy and text/libsvm, and the texts
that say in which row and column a body is wrong. Refuses models and answers (``rendering``).

Main function: ``decode_table``.

Numbers are exact: every field goes through the interpreter's correctly rounded ``float`` and, for XGBoost,
is then rounded once to float32 (``array('f')``), as numpy does.
"""

from __future__ import annotations

import array
import csv
import functools
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .calls import Refusal

CSV = "text/csv"
JSON = "application/json"
JSON_LINES = "application/jsonlines"
NPY = "application/x-npy"
LIBSVM = "text/libsvm"
RECORDIO = "application/x-recordio-protobuf"

_ALIASES = {
    "application/x-jsonlines": JSON_LINES,
    "application/jsonl": JSON_LINES,
    "text/x-libsvm": LIBSVM,
    "application/csv": CSV,
    "text/json": JSON,
    "application/npy": NPY,
}
# A wide libsvm row is dense here: 6 MB of text must not become gigabytes of NaN.
MAX_CELLS = 64_000_000
_MISSING = {"", "na", "nan", "null", "none"}


class Table(NamedTuple):
    """Rows of numbers, row-major.

    Attributes:
        values: ``array('f')`` or ``array('d')`` of ``rows * columns`` numbers; NaN is missing.
    """

    values: array.array[float]
    rows: int
    columns: int


class NotNumeric(Refusal):
    """A body whose fields are well separated but not all numbers."""


@functools.lru_cache(maxsize=512)
def parse_media_type(content_type: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split a Content-Type into its canonical media type and its parameters.

    >>> parse_media_type("Text/CSV; charset=utf-8; label_size=0")
    ('text/csv', (('charset', 'utf-8'), ('label_size', '0')))
    """
    media, _, rest = content_type.partition(";")
    parameters = []
    for part in rest.split(";"):
        name, found, value = part.partition("=")
        if found:
            parameters.append((name.strip().lower(), value.strip().strip('"')))
    media = media.strip().lower()
    return _ALIASES.get(media, media), tuple(parameters)


def decode_table(content_type: str, body: bytes, *, typecode: str, columns: int | None = None) -> Table:
    """Decode a body to numbers.

    Args:
        content_type: As sent; empty means text/csv.
        typecode: ``f`` for float32, ``d`` for float64.
        columns: How many the model has, where known; libsvm rows are made that wide.
    Raises:
        Refusal: 415 for a type that is not spoken here, 400 for a body that is not of its type or empty.
    """
    media, parameters = parse_media_type(content_type or CSV)
    if not body.strip():
        raise Refusal(400, "The request body is empty: send at least one row.")
    if media == CSV:
        return _without_label(decode_csv(body, typecode), dict(parameters))
    if media in (JSON, JSON_LINES):
        return table_of_rows(rows_of(decode_json(media, body)), typecode)
    if media == NPY:
        return _decode_npy(body, typecode)
    if media == LIBSVM:
        return decode_libsvm(body, typecode, columns)
    if media == RECORDIO:
        raise Refusal(415, f"Content type {RECORDIO} is not supported here: send {CSV}, {LIBSVM} or {JSON}.")
    raise Refusal(
        415,
        f"Content type {content_type} is not supported: send {CSV}, {JSON}, {JSON_LINES}, {NPY} or {LIBSVM}.",
    )


def decode_text(body: bytes, what: str) -> str:
    """Decode UTF-8, a byte-order mark left out.

    Raises:
        Refusal: 400, naming the first bad byte.
    """
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(
            400, f"The {what} body is not UTF-8: byte {error.start + 1} ({error.reason})."
        ) from None


def decode_csv(body: bytes, typecode: str) -> Table:
    """Decode rows of numbers; an empty field is missing (NaN).

    The delimiter is the comma, or where the first line has none, one of tab, semicolon, bar and blank, which
    the XGBoost container sniffs too.

    Raises:
        NotNumeric: 400, a field that is not a number, with its row and column.
        Refusal: 400, rows of different lengths.
    """
    lines = body.strip(b"\r\n \t" if b"," in body else b"\r\n ").splitlines()
    delimiter = _delimiter_of(lines[0])
    width = lines[0].count(delimiter) + 1
    for number, line in enumerate(lines, 1):
        found = line.count(delimiter) + 1
        if found != width:
            raise Refusal(400, f"CSV row {number} has {found} columns where row 1 has {width}.")
    fields = delimiter.join(lines).split(delimiter)
    values = _array(typecode)
    try:
        if b"_" in body:  # float() would take 1_000
            raise ValueError
        values.extend(map(float, fields))
    except (ValueError, OverflowError):
        values = array.array(
            typecode,
            [_number(field, 1 + at // width, 1 + at % width) for at, field in enumerate(fields)],
        )
    return Table(values, len(lines), width)


def _array(typecode: str, values: Iterable[float] = ()) -> array.array[float]:
    made: array.array[float] = array.array("f" if typecode == "f" else "d")
    made.extend(values)
    return made


def _delimiter_of(line: bytes) -> bytes:
    if b"," not in line:
        for candidate in (b"\t", b";", b"|", b" "):
            if candidate in line.strip():
                return candidate
    return b","


def _number(field: bytes, row: int, column: int) -> float:
    text = field.strip()
    if not text:
        return math.nan
    try:
        if b"_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        shown = text[:40].decode("utf-8", "replace")
        raise NotNumeric(400, f"CSV row {row}, column {column}: {shown!r} is not a number.") from None


def _without_label(table: Table, parameters: dict[str, str]) -> Table:
    """Apply ``label_size=N``: the first N columns are labels, not features."""
    text = parameters.get("label_size", "0")
    if not text.isdigit() or int(text) >= table.columns:
        raise Refusal(400, f"label_size={text} leaves no features of {table.columns} columns.")
    labels = int(text)
    if labels == 0:
        return table
    width = table.columns
    values = _array(table.values.typecode)
    for row in range(table.rows):
        values.extend(table.values[row * width + labels : (row + 1) * width])
    return Table(values, table.rows, width - labels)


def decode_json(media: str, body: bytes) -> Any:
    """Parse JSON, or JSON lines to a list of their values.

    Raises:
        Refusal: 400, with the line and column of the mistake.
    """
    text = decode_text(body, media)
    if media == JSON:
        return _loads(text, 1)
    return [_loads(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _loads(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        raise Refusal(400, f"Not JSON: {error.msg} at line {line}, column {error.colno}.") from None
    except (RecursionError, ValueError):  # nested too deep; an integer of thousands of digits
        raise Refusal(
            400, f"Not JSON that can be read: line {line} nests too deep or has too long a number."
        ) from None


_WRAPPERS = ("instances", "inputs", "data", "rows", "features")


def rows_of(value: Any) -> list[Any]:
    """Find the rows in what people send as JSON.

    Understood: a list of rows, one row, ``{"instances": [...]}`` (also inputs, data, rows), and rows as
    ``{"features": [...]}``.

    >>> rows_of({"instances": [{"features": [1, 2]}, {"features": [3, 4]}]})
    [[1, 2], [3, 4]]
    >>> rows_of([1, 2, 3])
    [[1, 2, 3]]
    """
    for name in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(name), list):
            value = value[name]
            break
    if not isinstance(value, list):
        value = [value]
    if value and not isinstance(value[0], (list, dict)):
        value = [value]
    rows = []
    for row in value:
        for name in ("features", "data"):
            if isinstance(row, dict) and isinstance(row.get(name), list):
                row = row[name]
                break
        rows.append(row)
    return rows


def table_of_rows(rows: Sequence[Any], typecode: str) -> Table:
    """Turn lists of numbers (null is missing) into a table.

    Raises:
        NotNumeric: 400, a value that is not a number, with its row and column.
        Refusal: 400, no rows, or rows of different lengths.
    """
    if not rows:
        raise Refusal(400, "The request has no rows.")
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    values = _array(typecode)
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            raise NotNumeric(400, f"Row {number} is an object; a list of numbers is wanted.")
        if not isinstance(row, list):
            raise NotNumeric(400, f"Row {number} is not a list of numbers.")
        if len(row) != width:
            raise Refusal(400, f"Row {number} has {len(row)} columns where row 1 has {width}.")
        for column, value in enumerate(row, 1):
            values.append(_json_number(value, number, column))
    return Table(values, len(rows), width)


def _json_number(value: Any, row: int, column: int) -> float:
    if value is None:
        return math.nan
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.copysign(math.inf, value)
    shown = json.dumps(value)[:40]
    raise NotNumeric(400, f"Row {row}, column {column}: {shown} is not a number.")


def decode_npy_array(body: bytes) -> Any:
    """Read a .npy body without ever unpickling it; numpy is imported here.

    Raises:
        Refusal: 400, not such a file, or one of objects.
    """
    import numpy as np

    if not body.startswith(b"\x93NUMPY"):
        raise Refusal(400, "Not a .npy body: it does not begin with \\x93NUMPY.")
    try:
        return np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError, KeyError, TypeError, SyntaxError, MemoryError) as error:
        raise Refusal(400, f"Not a readable .npy body: {str(error)[:200]}") from None


def _decode_npy(body: bytes, typecode: str) -> Table:
    data = decode_npy_array(body)
    if getattr(data, "dtype", None) is None or data.dtype.kind not in "fiub":
        raise NotNumeric(400, f"The .npy body holds {getattr(data, 'dtype', 'an archive')}, not numbers.")
    if data.ndim == 0 or data.ndim > 2 or data.size == 0:
        raise Refusal(400, f"The .npy body has shape {data.shape}: rows by columns are wanted.")
    if data.ndim == 1:
        data = data.reshape(1, -1)
    values = _array(typecode)
    values.frombytes(data.astype("<f4" if typecode == "f" else "<f8", order="C").tobytes())
    return Table(values, data.shape[0], data.shape[1])


def decode_libsvm(body: bytes, typecode: str, columns: int | None) -> Table:
    """Decode ``label index:value ...`` lines; indices count from 0, what is absent is missing (NaN).

    Args:
        columns: The model's width; None takes the largest index seen.
    Raises:
        Refusal: 400, with row and item; 413 when the rows would be too large once dense.
    """
    lines = decode_text(body, LIBSVM).strip().splitlines()
    rows = [list(_libsvm_items(line, number)) for number, line in enumerate(lines, 1)]
    widest = max((index for row in rows for index, _ in row), default=-1) + 1
    if columns is None:
        columns = max(widest, 1)
    elif widest > columns:
        raise Refusal(
            400,
            f"Feature size of libsvm inference data {widest} is larger than feature size "
            f"of trained model {columns}.",
        )
    if len(rows) * columns > MAX_CELLS:
        raise Refusal(413, f"{len(rows)} libsvm rows of {columns} columns are too many for one request.")
    values = _array(typecode, [math.nan]) * (len(rows) * columns)
    for number, row in enumerate(rows):
        for index, value in row:
            values[number * columns + index] = value
    return Table(values, len(rows), columns)


def _libsvm_items(line: str, number: int) -> Iterable[tuple[int, float]]:
    for position, item in enumerate(line.split()):
        index, colon, value = item.partition(":")
        try:
            if not colon:
                if position > 0:
                    raise ValueError
                float(item)  # the label, which prediction has no use for
            elif index != "qid":
                if not index.isascii() or not index.isdigit() or len(index) > 9:
                    raise ValueError
                yield int(index), float(value)
        except ValueError:
            raise Refusal(400, f"libsvm row {number}: {item[:40]!r} is not index:value.") from None


def decode_records(content_type: str, body: bytes) -> list[Any]:
    """Decode to rows whose fields may be texts: lists (CSV, JSON) or objects (JSON).

    Raises:
        Refusal: as ``decode_table``.
    """
    media, _ = parse_media_type(content_type or CSV)
    if media == CSV:
        text = decode_text(body, CSV).strip("\r\n")
        try:
            return [row for row in csv.reader(io.StringIO(text), strict=True) if row]
        except csv.Error as error:
            raise Refusal(400, f"Not CSV: {error}") from None
    return rows_of(decode_json(media, body))


def field_value(field: Any) -> Any:
    """Read one CSV field as a number where it is one, NaN where it is missing, else as the text it is."""
    if not isinstance(field, str):
        return math.nan if field is None else field
    if field.strip().lower() in _MISSING:
        return math.nan
    try:
        return float(field) if "_" not in field else field
    except ValueError:
        return field

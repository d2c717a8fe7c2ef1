"""Predictions into answer bodies, in the form that the caller accepts.

Owns the choice among what is offered (``choose_accept``) and the text of numbers. Refuses models.

Main functions: ``choose_accept``, ``render_rows``.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from typing import Any

from .calls import Refusal
from .codecs import CSV, JSON, JSON_LINES, NPY, parse_media_type
from .wire import ResponseHead, encode_response_head

OFFERED = (CSV, JSON, JSON_LINES, NPY)
# The XGBoost container's answers carry the charset; captured answers on AWS show it.
_CONTENT_TYPES = {CSV: "text/csv; charset=utf-8"}


@functools.lru_cache(maxsize=512)
def choose_accept(accept: str, default: str, offered: tuple[str, ...] = OFFERED) -> str:
    """Choose the media type to answer in.

    Highest ``q`` first, then the caller's order; a wildcard takes the default where it covers it. Absent
    means anything.

    Raises:
        Refusal: 406, nothing of what is accepted is offered.

    >>> choose_accept("application/xml, application/json;q=0.5", "text/csv")
    'application/json'
    >>> choose_accept("*/*", "text/csv"), choose_accept("", "text/csv")
    ('text/csv', 'text/csv')
    """
    if not accept.strip():
        return default
    wanted = []
    for position, part in enumerate(accept.split(",")):
        media, parameters = parse_media_type(part)
        try:
            quality = float(dict(parameters).get("q", "1"))
        except ValueError:
            quality = 0.0
        if media and quality > 0:
            wanted.append((-quality, position, media))
    for _, _, media in sorted(wanted):
        if media in offered:
            return media
        main, _, sub = media.partition("/")
        if sub == "*":
            for candidate in (default, *offered):
                if main in ("*", candidate.partition("/")[0]):
                    return candidate
    raise Refusal(406, f"Accept {accept} is not supported: ask for {', '.join(offered)}.")


@functools.lru_cache(maxsize=64)
def head_of(media: str) -> bytes:
    """Encode the response head of an answer of that media type."""
    return encode_response_head(ResponseHead(content_type=_CONTENT_TYPES.get(media, media)))


def render_rows(rows: Sequence[Any], media: str) -> bytes:
    """Render predictions, one entry a row: a number, text or list each.

    CSV as numpy's ``savetxt(fmt="%s", delimiter=",")`` writes it (the toolkits' encoder): a line a row.

    >>> render_rows([0, 1], "application/json"), render_rows([[0.25, 0.75]], "text/csv")
    (b'[0, 1]', b'0.25,0.75\\n')
    """
    if media == JSON:
        return json.dumps(rows).encode()
    if media == JSON_LINES:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if media == CSV:
        return "".join(
            (",".join(map(str, row)) if isinstance(row, (list, tuple)) else str(row)) + "\n" for row in rows
        ).encode()
    if media == NPY:
        import numpy as np

        return render_npy(np.asarray(rows))
    raise Refusal(406, f"An answer can't be rendered as {media}.")


def render_npy(values: Any) -> bytes:
    """Write an array as .npy; objects are refused, for reading them back would need unpickling.

    Raises:
        Refusal: 406, an array of objects.
    """
    import numpy as np

    if values.dtype.kind == "O":
        values = np.asarray(values.tolist())
        if values.dtype.kind == "O":
            raise Refusal(406, "This answer has no plain .npy form: ask for application/json.")
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()

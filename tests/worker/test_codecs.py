"""Bodies into numbers, against numpy's own reading of them."""

from __future__ import annotations

import array
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.worker import codecs, rendering
from understudy.worker.calls import Refusal

NUMBERS = st.floats(allow_infinity=True, allow_nan=True)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=5), st.sampled_from("fd"))
def test_csv_is_read_as_numpy_rounds(rows, typecode):
    body = "\n".join(",".join("" if math.isnan(x) else repr(x) for x in row) for row in rows).encode()
    table = codecs.decode_csv(body, typecode)
    with np.errstate(over="ignore"):
        expected = np.array(rows, dtype=float).astype("<f4" if typecode == "f" else "<f8")
    assert (table.rows, table.columns) == expected.shape
    found = np.frombuffer(table.values, dtype=expected.dtype).reshape(expected.shape)
    assert np.array_equal(found, expected, equal_nan=True)


@given(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=5))
def test_json_csv_and_npy_agree(rows):
    import json

    out = io.BytesIO()
    np.save(out, np.array(rows, dtype=float))
    tables = [
        codecs.decode_table("application/x-npy", out.getvalue(), typecode="d"),
        codecs.decode_table("application/json", json.dumps(rows).encode(), typecode="d"),
        codecs.decode_table(
            "text/csv", "\n".join(",".join(map(repr, row)) for row in rows).encode(), typecode="d"
        ),
    ]
    assert len({(one.rows, one.columns) for one in tables}) == 1
    for one in tables[1:]:
        assert np.array_equal(one.values, tables[0].values, equal_nan=True)


@given(st.binary(max_size=300), st.sampled_from(
    ["text/csv", "application/json", "application/jsonlines", "application/x-npy", "text/libsvm", "x/y", ""]
))  # fmt: skip
def test_any_bytes_are_a_table_or_a_refusal(body, content_type):
    try:
        table = codecs.decode_table(content_type, body, typecode="f", columns=4)
        assert len(table.values) == table.rows * table.columns > 0
    except Refusal as refusal:
        assert 400 <= refusal.status < 500 and refusal.message


def test_a_sparse_bomb_is_refused():
    with pytest.raises(Refusal) as caught:
        codecs.decode_libsvm(b"1 0:1\n" * 100, "f", 1_000_000)
    assert caught.value.status == 413


@pytest.mark.parametrize("size", ["3", "9", "x", "-1"])
def test_a_label_size_that_leaves_nothing_is_refused(size):
    with pytest.raises(Refusal, match="label_size"):
        codecs.decode_table(f"text/csv;label_size={size}", b"1,2,3", typecode="f")


def test_label_columns_are_cut_from_each_row():
    table = codecs.decode_table("text/csv; label_size=1", b"1,2,3\n4,5,6", typecode="f")
    assert table == (array.array("f", [2, 3, 5, 6]), 2, 2)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/csv"), ("*/*", "text/csv"), ("application/json", "application/json"),
        ("text/*", "text/csv"), ("application/*;q=0.4, text/csv;q=0.3", "application/json"),
        ("application/json;q=0, text/csv", "text/csv"), ("Application/X-JSONLINES", "application/jsonlines"),
    ],
)  # fmt: skip
def test_accept_is_honoured(accept, expected):
    assert rendering.choose_accept(accept, "text/csv") == expected


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "application/json;q=x"])
def test_what_is_not_offered_is_406(accept):
    with pytest.raises(Refusal) as caught:
        rendering.choose_accept(accept, "text/csv")
    assert caught.value.status == 406


def test_objects_have_no_npy_form():
    with pytest.raises(Refusal):
        rendering.render_npy(np.array([{"a": 1}, None], dtype=object))

"""Clean CSV rows packed by either parser, to the bits of ``float`` and of a float32 array."""

from __future__ import annotations

import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.worker import clean_rows
from understudy.worker.clean_rows import RowPacker

NUMBERS = st.one_of(
    st.floats(-3e38, 3e38).map(repr),
    st.floats(-3e38, 3e38).map(lambda value: f"{value:.25e}"),
    st.floats(-1e9, 1e9).map(lambda value: f"{value:.20f}"),
    st.integers(-(10**30), 10**30).map(str),
    st.sampled_from(["0", "1.", ".5", "+1", "1E5", "007", "1e-400"]),
)


@pytest.fixture(params=["msgspec", "float"])
def packer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RowPacker]:
    if request.param == "float":
        monkeypatch.setattr(clean_rows, "msgspec", None)
    yield RowPacker(3, 100)


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_the_fast_parser_gives_the_bits_of_float(rows: list[tuple[str, str, str]]) -> None:
    packer = RowPacker(3, 100)
    assert packer.pack([",".join(row).encode() for row in rows])
    wanted = array.array("f", [float(field) for row in rows for field in row])
    assert packer.values[: len(wanted)].tobytes() == wanted.tobytes()


def test_rows_of_one_call_do_not_stay_for_the_next(packer: RowPacker) -> None:
    assert packer.pack([b"1,2,3", b"4,5,6"])
    assert packer.pack([b"7,8,9"])
    assert list(packer.values[:3]) == [7.0, 8.0, 9.0]
    assert packer.pack([b"1,2,3"] * 100)
    assert list(packer.values) == [1.0, 2.0, 3.0] * 100


@pytest.mark.parametrize(
    "row",
    [
        b"", b"1,2", b"1,2,3,4", b"1,,3", b"1,2,x", b"1,2,nan", b"1,2,inf", b"1,2,1e39", b"1,2,1e999",
        b"1,2,-", b"1,2,3\n", b" 1,2,3", b"1,2,1_0", b'1,2,"3"', b"[1],2,3", b"1,2,e", b"1,2,3,",
        b"\xff,2,3", b"1,2,--1",
    ],
)  # fmt: skip
def test_all_else_goes_the_long_way(packer: RowPacker, row: bytes) -> None:
    assert not packer.pack([row])
    assert not packer.pack([b"1,2,3", row])


def test_missing_fields_are_not_made_up_by_neighbours(packer: RowPacker) -> None:
    assert not packer.pack([b"1,2", b"3,4,5,6"])
    assert not packer.pack([b"1,2,3"] * 101)

"""SageMaker's ground truth lines, as its notebooks write them and as others might."""

from __future__ import annotations

import pytest

from understudy.capture.ground_truth import list_files, parse_ground_truth
from understudy.capture.reader import NotARecord
from understudy.core.outcomes import Value
from understudy.stores.memory_objects import MemoryObjects
from understudy.system import RealClock


def line(data: str, encoding: str = "CSV") -> bytes:
    return (
        f'{{"groundTruthData":{{"data":{data},"encoding":"{encoding}"}},'
        '"eventMetadata":{"eventId":"57"},"eventVersion":"0"}'
    ).encode()


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        ('"1"', "CSV", 1.0),
        ('"0,1,1"', "CSV", (0.0, 1.0, 1.0)),
        ('"True."', "CSV", "True."),
        ('{"label": 0}', "JSON", 0.0),
        ('"{\\"label\\": 1}"', "JSON", 1.0),
        ('{"instances": [{"label": 0}, {"label": 1}]}', "JSON", (0.0, 1.0)),
        ('{"churned": true}', "JSON", 1.0),
        ("3.5", "JSON", 3.5),
    ],
)
def test_labels_in_every_form(data: str, encoding: str, expected: Value) -> None:
    found = parse_ground_truth(line(data, encoding), at_s=7.0, source="s3://b/k:1")
    assert (found.id, found.name, found.value, found.at_s) == ("57", "label", expected, 7.0)
    assert found.source == "s3://b/k:1"


def test_an_attribute_can_be_named() -> None:
    data = line('{"a": 1, "b": "x"}', "JSON")
    assert parse_ground_truth(data, at_s=0.0, source="", attribute="b").value == "x"
    with pytest.raises(NotARecord, match="name it"):
        parse_ground_truth(data, at_s=0.0, source="")


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b'{"groundTruthData":{"data":"1"}}',
        b'{"groundTruthData":{"data":"1"},"eventMetadata":{"eventId":""}}',
        line('""'),
        line("null", "JSON"),
        line("1"),
        line('"x"', "BASE64"),
        line("[]", "JSON"),
        line("[" * 3000 + "]" * 3000, "JSON"),
        b'{"groundTruthData":{"data":"1"},"eventMetadata":{"eventId":"' + b"x" * 300 + b'"}}',
    ],
)
def test_what_is_no_label_says_why(bad: bytes) -> None:
    with pytest.raises(NotARecord):
        parse_ground_truth(bad, at_s=0.0, source="")


def test_empty_files_and_other_prefixes_are_left_out() -> None:
    objects = MemoryObjects(RealClock())
    objects.create_bucket("b")
    for number in range(1100):
        objects.put("b", f"gt/{number:04}.jsonl", [b"x"])
    objects.put("b", "gt/empty", [b""])
    objects.put("b", "other/x", [b"x"])
    keys = [info.key for info in list_files(objects, "b", "gt/")]
    assert keys == [f"gt/{number:04}.jsonl" for number in range(1100)]


@pytest.mark.parametrize(
    ("data", "encoding", "why"),
    [
        (f'"{"1" * 200_000}"', "CSV", "field limit"),
        ('"a\\rb"', "CSV", "not CSV"),
        ("[" * 900 + "1" + "]" * 900, "JSON", "."),
        ("[" * 400 + "1" + "]" * 400, "JSON", "must be a number"),
        ("9" * 5000, "JSON", "out of range"),
    ],
)
def test_a_line_that_breaks_a_reader_is_a_line_that_is_no_label(data: str, encoding: str, why: str) -> None:
    """One raises the parsers' own errors; each must be told by its line, and keep no other file waiting."""
    with pytest.raises(NotARecord, match=why):
        parse_ground_truth(line(data, encoding), at_s=0.0, source="s3://b/k:1")

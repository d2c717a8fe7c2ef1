"""The whole request path through a real router process."""

from __future__ import annotations

from typing import Any


def test_an_invocation_is_answered(served: Any) -> None:
    answer = served.invoke(b"1,2,3")
    assert (answer.status, answer.body) == (200, b"1,2,3")
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["x-amzn-invoked-production-variant"] == "v"
    assert len(answer.headers["x-amzn-requestid"]) == 36

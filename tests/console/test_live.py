"""One sampler feeds everybody who watches."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from understudy.console import live as live_module
from understudy.console.live import Live, TooManyViewers, difference
from understudy.control.totals import VariantTotals
from understudy.core.metrics import Summary


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "SAMPLE_S", 0.02)


def totals_of(*latencies_us: float, errors: int = 0) -> VariantTotals:
    return VariantTotals(
        invocations=len(latencies_us), errors_5xx=errors, model_latency_us=Summary.of(latencies_us)
    )


def test_percentiles_are_of_what_came_between() -> None:
    before = totals_of(*[9e6] * 100)
    after = totals_of(*[9e6] * 100, *[1000.0] * 98, 2000.0, 2000.0)
    told = difference(before, after, 5.0)
    assert told["invocations"] == 100 and told["rate"] == 20.0
    assert told["p50_us"] == pytest.approx(1000.0, rel=0.02)
    assert told["p99_us"] == pytest.approx(2000.0, rel=0.02)


def test_nothing_between_is_nothing_known() -> None:
    told = difference(totals_of(1.0), totals_of(1.0), 1.0)
    assert (told["rate"], told["p50_us"]) == (0.0, None)
    assert difference(totals_of(), totals_of(), 0.0)["rate"] is None


def test_totals_that_went_back_are_no_traffic() -> None:
    assert difference(totals_of(1.0, 2.0), totals_of(1.0), 1.0)["invocations"] == 0


def event_of(data: bytes) -> Any:
    assert data.startswith(b"data: ") and data.endswith(b"\n\n")
    return json.loads(data[6:])


def test_many_watch_one_sampler(scene: Any) -> None:
    looks = 0

    def totals() -> Any:
        nonlocal looks
        looks += 1
        return {("churn", "v"): VariantTotals(invocations=looks)}

    async def watch(live: Live, endpoint: str | None) -> list[Any]:
        events = live.watch(endpoint)
        assert (await anext(events)).startswith(b"retry:")
        seen = []
        async for data in events:
            if data.startswith(b"data:"):
                seen.append(event_of(data))
            if len(seen) == 5:
                break
        await events.aclose()  # type: ignore[attr-defined]
        return seen

    async def story() -> None:
        live = Live(totals, lambda: describe(), scene.clock, scene.threads, lambda: False)
        everybody = await asyncio.gather(*(watch(live, "churn" if at % 2 else None) for at in range(50)))
        assert all(len(one) == 5 for one in everybody)
        assert looks < 20  # not 250
        rates = [one["endpoints"][0]["variants"][0]["live"]["rate"] for one in everybody[0][1:]]
        assert all(rate > 0 for rate in rates)
        assert [one["name"] for one in everybody[0][0]["endpoints"]] == ["churn", "other"]
        assert [one["name"] for one in everybody[1][0]["endpoints"]] == ["churn"]
        await asyncio.sleep(0.1)
        rested = looks
        await asyncio.sleep(0.1)
        assert looks == rested  # nobody watches, nobody samples

    def describe() -> dict[str, Any]:
        return {"endpoints": [{"name": name, "variants": [{"name": "v"}]} for name in ("churn", "other")]}

    asyncio.run(story())


def test_who_comes_later_gets_no_old_picture(scene: Any) -> None:
    names = ["old"]

    async def first_of(live: Live) -> Any:
        events = live.watch(None)
        async for data in events:
            if data.startswith(b"data:"):
                await events.aclose()  # type: ignore[attr-defined]
                return [one["name"] for one in event_of(data)["endpoints"]]
        raise AssertionError("the stream ended")

    async def story() -> None:
        live = Live(
            dict,
            lambda: {"endpoints": [{"name": name, "variants": []} for name in names]},
            scene.clock,
            scene.threads,
            lambda: False,
        )
        assert await first_of(live) == ["old"]
        await asyncio.sleep(0.15)  # nobody watches any more
        names[:] = ["new"]
        for _ in range(3):
            assert await first_of(live) == ["new"]
            await asyncio.sleep(0.15)

    asyncio.run(asyncio.wait_for(story(), 20.0))


def test_after_a_whole_picture_only_changes_are_told(scene: Any) -> None:
    """Whoever puts them together has the newest picture, however the endpoints come and go."""
    looks = 0

    def describe() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        names = ["idle", "busy", "late"] if looks > 3 else ["idle", "busy", "early"]
        variants = [{"name": "v"}]
        return {"endpoints": [{"name": name, "variants": [dict(one) for one in variants]} for name in names]}

    async def story() -> None:
        live = Live(
            lambda: {("busy", "v"): VariantTotals(invocations=looks)},
            describe,
            scene.clock,
            scene.threads,
            lambda: False,
        )
        known: dict[str, Any] = {}
        pictures = []
        async for data in live.watch(None):
            if not data.startswith(b"data:"):
                continue
            told = event_of(data)
            if told["whole"]:
                known.clear()
            for name in told["gone"]:
                del known[name]
            known.update({one["name"]: one for one in told["endpoints"]})
            pictures.append((told, set(known)))
            if len(pictures) > 2 and "late" in known and not told["whole"]:
                break
        assert pictures[0][0]["whole"] and pictures[0][1] >= {"idle", "busy"}
        assert pictures[-1][1] == {"idle", "busy", "late"}
        later = [told for told, _ in pictures if not told["whole"]]
        assert later and all(one["endpoints"][0]["name"] != "idle" for one in later[1:])

    asyncio.run(asyncio.wait_for(story(), 20.0))


def test_sampling_goes_on_after_a_failure(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    answers = [OSError("the disk is full"), {"endpoints": []}]

    def describe() -> dict[str, Any]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return dict(answer)

    async def story() -> None:
        live = Live(dict, describe, scene.clock, scene.threads, lambda: False)
        assert [data async for data in live.watch(None) if data.startswith(b"data:")] == []
        events = live.watch(None)
        assert any([data.startswith(b"data:") async for data in _first(events, 3)])

    asyncio.run(asyncio.wait_for(story(), 20.0))
    assert "can't be sampled" in caplog.text


async def _first(events: Any, count: int) -> Any:
    async for data in events:
        yield data
        count -= 1
        if not count:
            await events.aclose()
            return


def test_streams_end_with_the_server(scene: Any) -> None:
    stopping = False

    async def story() -> int:
        nonlocal stopping
        live = Live(dict, lambda: {"endpoints": []}, scene.clock, scene.threads, lambda: stopping)
        count = 0
        async for _ in live.watch(None):
            count += 1
            stopping = count == 3
        return count

    assert asyncio.run(asyncio.wait_for(story(), 10.0)) == 3


def test_viewers_are_bounded(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_VIEWERS", 1)

    async def story() -> None:
        live = Live(dict, lambda: {"endpoints": []}, scene.clock, scene.threads, lambda: False)
        first = live.watch(None)
        await anext(first)
        with pytest.raises(TooManyViewers):
            await anext(live.watch(None))
        await first.aclose()  # type: ignore[attr-defined]
        second = live.watch(None)
        await anext(second)
        await second.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())

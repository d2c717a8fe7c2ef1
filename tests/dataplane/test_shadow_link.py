"""The breaker opens for silence alone, tries again, and closes at any answer."""

from __future__ import annotations

from understudy.dataplane.shadow_link import FAILURES_TO_OPEN, FORGIVEN_NS, FULL_TO_OPEN_NS, OPEN_NS, Breaker

SECOND_NS = 1_000_000_000


def opened(now_ns: int = 0) -> Breaker:
    breaker = Breaker("shadow s of endpoint e")
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(now_ns)
    assert breaker.is_open
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker("shadow s of endpoint e")
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed(0)
        breaker.answered(0)
    assert not breaker.is_open and breaker.admits(0)
    assert opened().is_open


def test_one_copy_tries_it_at_a_time() -> None:
    breaker = opened(now_ns=10 * SECOND_NS)
    assert breaker.refuses(10 * SECOND_NS + OPEN_NS - 1)
    assert not breaker.admits(10 * SECOND_NS + OPEN_NS - 1)
    for _ in range(2):  # asking whether one may go takes nobody's turn
        assert not breaker.refuses(10 * SECOND_NS + OPEN_NS)
    assert breaker.admits(10 * SECOND_NS + OPEN_NS)
    assert breaker.refuses(10 * SECOND_NS + OPEN_NS)
    assert not breaker.admits(10 * SECOND_NS + OPEN_NS)
    breaker.failed(10 * SECOND_NS + OPEN_NS + 5)
    assert breaker.is_open and not breaker.admits(10 * SECOND_NS + 2 * OPEN_NS)
    assert breaker.admits(10 * SECOND_NS + 2 * OPEN_NS + 5)


def test_any_answer_closes_it() -> None:
    breaker = opened()
    breaker.answered(0)
    assert not breaker.is_open and breaker.admits(0) and not breaker.refuses(0)
    breaker.failed(0)
    assert not breaker.is_open  # counting begins anew


def test_a_full_queue_opens_it_only_without_answers() -> None:
    breaker = Breaker("shadow s of endpoint e")
    for step in range(100):  # slow: full all the time, but it answers
        breaker.full(step * SECOND_NS // 10)
        if step % 5 == 4:
            breaker.answered(step * SECOND_NS // 10)
    assert not breaker.is_open
    breaker.full(20 * SECOND_NS)
    breaker.full(20 * SECOND_NS + FULL_TO_OPEN_NS - 1)
    assert not breaker.is_open
    breaker.full(20 * SECOND_NS + FULL_TO_OPEN_NS)
    assert breaker.is_open


def test_new_instances_are_tried_at_once_by_one_copy() -> None:
    breaker = opened(now_ns=10 * SECOND_NS)
    assert not breaker.admits(11 * SECOND_NS)
    breaker.renewed()
    assert breaker.is_open and breaker.admits(11 * SECOND_NS)
    assert not breaker.admits(11 * SECOND_NS), "the others wait for what becomes of it"
    breaker.answered(0)
    assert not breaker.is_open


def test_one_that_dies_again_and_again_proves_longer_each_time_that_it_lives() -> None:
    breaker = Breaker("shadow s of endpoint e")
    breaker.died(100 * SECOND_NS)
    assert not breaker.is_open, "anybody may die once"
    now_ns = 103 * SECOND_NS
    for proof_s in (30, 120, 600, 600):
        breaker.died(now_ns)
        breaker.renewed()
        begun_ns = now_ns = now_ns + SECOND_NS
        copies = 0
        while breaker.is_open:
            if breaker.admits(now_ns):
                copies += 1
                assert breaker.refuses(now_ns)
                breaker.answered(now_ns)
            now_ns += SECOND_NS // 10
        assert proof_s <= (now_ns - begun_ns) / SECOND_NS <= proof_s + 1
        assert copies <= 2 * proof_s + 1
    assert breaker.admits(now_ns) and breaker.admits(now_ns)
    # A minute of all copies: a death is a first one again.
    breaker.died(now_ns + FORGIVEN_NS)
    assert not breaker.is_open


def test_copies_on_trial_take_a_hundredth_of_the_time() -> None:
    """What a dying shadow does with a copy costs production the more, the longer it takes."""
    breaker = Breaker("shadow s of endpoint e")
    breaker.died(100 * SECOND_NS)
    breaker.died(101 * SECOND_NS)
    breaker.renewed()
    now_ns, busy_ns, copies = 102 * SECOND_NS, 0, 0
    while now_ns < 131 * SECOND_NS:
        if breaker.admits(now_ns):
            copies += 1
            took_ns = SECOND_NS // 20
            busy_ns += took_ns
            now_ns += took_ns
            breaker.answered(now_ns)
        now_ns += SECOND_NS // 100
    assert breaker.is_open and 5 <= copies <= 6
    assert busy_ns <= (now_ns - 101 * SECOND_NS) / 98


def test_answers_to_what_left_before_the_trial_say_nothing_of_how_long_a_copy_takes() -> None:
    breaker = Breaker("shadow s of endpoint e")
    breaker.died(100 * SECOND_NS)
    breaker.died(101 * SECOND_NS)
    breaker.answered(104 * SECOND_NS)  # of another instance, handed out long before
    assert breaker.admits(104 * SECOND_NS + SECOND_NS // 2)


def test_one_that_is_silent_after_a_death_stays_out() -> None:
    breaker = Breaker("shadow s of endpoint e")
    breaker.died(100 * SECOND_NS)
    breaker.died(101 * SECOND_NS)
    breaker.answered(102 * SECOND_NS)
    breaker.died(103 * SECOND_NS)  # what it had proven is worth nothing
    breaker.answered(104 * SECOND_NS)
    assert breaker.is_open
    breaker.answered(223 * SECOND_NS)
    assert breaker.is_open
    breaker.answered(224 * SECOND_NS)
    assert not breaker.is_open

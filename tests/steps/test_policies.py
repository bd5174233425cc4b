# SPDX-License-Identifier: Apache-2.0
"""Policies are values; retention never takes the newest."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax import policies
from pertinax._steps.policies import goes_by_steps, keep_policy, save_policy
from pertinax._steps.retention import victims
from pertinax.errors import InvalidOption
from pertinax.policies import (
    AtSteps,
    Best,
    EverySeconds,
    EverySteps,
    Everything,
    KeepPolicy,
    Latest,
    Overhead,
    SaveContext,
    SavePolicy,
    StepRecord,
    When,
)

NOW = SaveContext(last_step=None, last_time_s=None, now_s=0.0)
HOUR_NS = 3600 * 10**9


def record(step: int, hours: float = 0, **metrics: float) -> StepRecord:
    return StepRecord(step, int(hours * HOUR_NS), metrics or None, f"/runs/{step}")


def history(*steps: int) -> list[StepRecord]:
    return [record(step, hours=step, loss=step) for step in steps]


class Odd:
    """A policy of the user's: any class with the right method is one."""

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        return {one.step for one in history if one.step % 2}


class Lucky:
    def due(self, step: int, context: SaveContext) -> bool:
        return step == 13


histories = st.lists(
    st.builds(
        StepRecord,
        step=st.integers(0, 60),
        time_ns=st.integers(0, 10**12),
        metrics=st.none()
        | st.just([1, 2])
        | st.fixed_dictionaries({}, optional={"loss": st.floats() | st.none() | st.text()}),
        directory=st.just("/x"),
        readable=st.booleans(),
        pins=st.just(()) | st.just(("good",)),
    ),
    unique_by=lambda one: one.step,
    max_size=12,
)
simple = st.one_of(
    st.just(Everything()),
    st.builds(EverySteps, st.integers(1, 10)),
    st.builds(AtSteps, st.frozensets(st.integers(0, 60))),
    st.builds(EverySeconds, st.floats(0.1, 900)),
    st.builds(Latest, st.integers(1, 5)),
    st.builds(Best, st.integers(1, 4), st.just("loss"), st.sampled_from(["min", "max"])),
    st.builds(Odd).map(lambda odd: odd | Latest(1)),
)
keeping: st.SearchStrategy[Any] = st.recursive(
    simple,
    lambda inner: st.tuples(inner, inner, st.booleans()).map(
        lambda t: t[0] | t[1] if t[2] else t[0] & t[1]
    ),
    max_leaves=4,
)
saving = st.one_of(
    st.just(Everything()),
    st.builds(EverySteps, st.integers(1, 10)),
    st.builds(AtSteps, st.frozensets(st.integers(0, 60))),
    st.builds(EverySeconds, st.floats(0.1, 900)),
    st.builds(Overhead, st.floats(0.001, 0.9), st.none() | st.floats(1, 1e6)),
    st.just(When(lambda step, context: step > 30)),
)
contexts = st.builds(
    SaveContext,
    last_step=st.none() | st.integers(0, 60),
    last_time_s=st.none() | st.floats(0, 1000),
    now_s=st.floats(0, 1000),
    cost_s=st.none() | st.floats(0, 100),
    busy=st.booleans(),
)


# ----------------------------------------------------------------------------------- each of them


@pytest.mark.parametrize(
    ("policy", "due"),
    [
        (Everything(), [0, 1, 2, 3, 4, 5, 6]),
        (EverySteps(3), [0, 3, 6]),
        (AtSteps([1, 5, 99]), [1, 5]),
        (EverySteps(3) | AtSteps({1}), [0, 1, 3, 6]),
        (EverySteps(3) & AtSteps([3, 4]), [3]),
        (EverySteps(3) & EverySteps(2), [0, 6]),
        (EverySteps(4) | Lucky(), [0, 4]),
        (Lucky() | EverySteps(4), [0, 4]),
    ],
)
def test_steps_that_are_saved(policy: SavePolicy, due: list[int]) -> None:
    assert [step for step in range(7) if policy.due(step, NOW)] == due


def test_seconds_are_counted_from_the_last_save() -> None:
    policy = EverySeconds(60)
    assert policy.due(1, SaveContext(None, None, now_s=5))
    assert not policy.due(2, SaveContext(1, 5.0, now_s=64.9))
    assert policy.due(3, SaveContext(1, 5.0, now_s=65.0))
    assert not policy.due(2, SaveContext(1, 5.0, now_s=5.0))  # a clock that has not moved


def test_a_clock_that_was_set_back_does_not_stop_the_saves() -> None:
    assert EverySeconds(60).due(2, SaveContext(1, 1e9, now_s=5.0))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Everything(), {0, 1, 2, 3, 4, 5, 6}),
        (Latest(2), {5, 6}),
        (Latest(99), {0, 1, 2, 3, 4, 5, 6}),
        (EverySteps(4), {0, 4}),
        (AtSteps([2, 77]), {2}),
        (EverySeconds(3 * 3600), {0, 3, 6}),
        (Best(2, "loss"), {0, 1}),
        (Best(2, "loss", "max"), {5, 6}),
        (Best(2, "accuracy"), set()),
        (Latest(1) | EverySteps(3) | Best(1, "loss"), {0, 3, 6}),
        (Latest(3) & EverySteps(2), {4, 6}),
        (Odd() | Latest(1), {1, 3, 5, 6}),
        (Latest(4) & Odd(), {3, 5}),
    ],
)
def test_steps_that_are_kept(policy: KeepPolicy, kept: set[int]) -> None:
    assert policy.keep(history(*range(7))) == kept


def test_of_equals_the_newest_is_the_best() -> None:
    equal = [record(step, loss=1.0) for step in range(5)]
    for mode in ("min", "max"):
        assert Best(2, "loss", mode).keep(equal) == {3, 4}


def test_what_is_no_number_is_never_the_best() -> None:
    measured = [
        record(0, loss=math.nan),
        record(1),
        StepRecord(2, 0, {"loss": "low"}, "/x"),
        StepRecord(3, 0, 0.5, "/x"),
        record(4, accuracy=1.0),
        record(5, loss=9.0),
        record(6, loss=math.inf),
    ]
    assert Best(1, "loss").keep(measured) == {5}
    assert Best(9, "loss", "max").keep(measured) == {5, 6}


def test_metrics_may_be_any_mapping() -> None:
    measured = [StepRecord(step, 0, MappingProxyType({"loss": step}), "/x") for step in range(3)]
    assert Best(1, "loss").keep(measured) == {0}


def test_times_are_compared_along_the_steps() -> None:
    times = [record(step, hours) for step, hours in [(3, 9), (1, 0), (2, 1), (4, 9.5)]]
    assert EverySeconds(3600).keep(times) == {1, 2, 3}


def test_a_clock_that_was_set_back_does_not_stop_the_keeping() -> None:
    times = [record(step, hours) for step, hours in [(1, 9), (2, 10), (3, 1), (4, 1.5), (5, 2)]]
    assert EverySeconds(3600).keep(times) == {1, 2, 3, 5}
    assert EverySeconds(3600).keep([record(1, 9), record(2, 9)]) == {1}


def test_a_function_says_when_to_save() -> None:
    policy = When(lambda step, context: step % 7 == 0 and context.now_s > 5)
    assert not policy.due(7, NOW)
    assert policy.due(7, replace(NOW, now_s=6))
    assert save_policy(policy | EverySteps(2)).due(4, NOW)
    with pytest.raises(InvalidOption, match="function"):
        When(7)  # type: ignore[arg-type]


def spent(policy: SavePolicy, costs_s: Sequence[float], step_s: float) -> tuple[float, int]:
    """The share of the time that a training loop spends on saves of such costs, and how many."""
    now_s = spent_s = 0.0
    context, saves = NOW, 0
    for step in range(20_000):
        now_s += step_s
        if policy.due(step, replace(context, now_s=now_s)):
            cost_s = costs_s[saves % len(costs_s)]
            context = SaveContext(step, now_s, now_s, cost_s=cost_s)
            now_s, spent_s, saves = now_s + cost_s, spent_s + cost_s, saves + 1
    return spent_s / now_s, saves


@pytest.mark.parametrize("costs_s", [[1.0], [0.1, 4.0, 0.5], [0.01]])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_the_overhead_stays_below_its_bound_and_close_to_it(
    costs_s: list[float], share: float
) -> None:
    found, saves = spent(Overhead(share), costs_s, step_s=0.01)
    assert found <= share + max(costs_s) / 200  # the last save has not paid yet
    assert found >= share / 4
    assert saves > 1


def test_who_knows_how_often_the_job_fails_saves_at_the_best_interval() -> None:
    policy = Overhead(0.02, mean_failure_s=3600)
    assert policy.interval_s(2.0) == pytest.approx(max(100, math.sqrt(2 * 2 * 3600)))
    assert policy.interval_s(0.5) == pytest.approx(math.sqrt(3600))  # oftener would cost more
    assert policy.interval_s(50.0) == 2500  # the bound comes first
    assert Overhead(0.5).interval_s(0.1) == 0.2
    assert Overhead(0.5, mean_failure_s=0.5).interval_s(0.01) == pytest.approx(0.1)
    best_s = policy.interval_s(0.5)

    def lost(interval_s: float) -> float:  # per second: saving, and half an interval per failure
        return 0.5 / interval_s + interval_s / 2 / 3600

    assert lost(best_s) <= min(lost(best_s * factor) for factor in (0.5, 0.8, 1.25, 2))


def test_no_save_is_due_while_one_is_being_written_and_the_first_shows_the_cost() -> None:
    policy = Overhead(0.5)
    assert policy.due(1, NOW)
    assert not policy.due(1, replace(NOW, busy=True))
    saved = SaveContext(1, last_time_s=100.0, now_s=103.9, cost_s=2.0)
    assert not policy.due(2, saved)
    assert not policy.due(2, replace(saved, now_s=100.0))  # a clock that has not moved
    assert policy.due(2, replace(saved, now_s=104.0))
    assert policy.due(2, replace(saved, now_s=50.0))  # a clock that was set back


@pytest.mark.parametrize("share", [0, 1, 2, -0.1, math.nan, "1", True, None])
def test_a_share_is_checked_at_birth(share: Any) -> None:
    with pytest.raises(InvalidOption, match="share"):
        Overhead(share)
    with pytest.raises(InvalidOption, match="mean_failure_s"):
        Overhead(0.1, mean_failure_s=0 if share is None else -1)


@pytest.mark.parametrize("mean_s", [0, -1.0, math.nan, math.inf, "1", True])
def test_how_often_a_job_fails_is_checked_at_birth(mean_s: Any) -> None:
    with pytest.raises(InvalidOption, match="mean_failure_s"):
        Overhead(0.1, mean_failure_s=mean_s)


# --------------------------------------------------------------------------------------- birth


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "3", None])
def test_counts_are_checked_at_birth(n: Any) -> None:
    for make in (EverySteps, Latest, lambda n: Best(n, "loss")):
        with pytest.raises(InvalidOption, match="at least 1"):
            make(n)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "1", True, None])
def test_seconds_are_checked_at_birth(seconds: Any) -> None:
    with pytest.raises(InvalidOption, match="seconds"):
        EverySeconds(seconds)


@pytest.mark.parametrize("steps", [3, [-1], ["1"], [1.5], None])
def test_steps_are_checked_at_birth(steps: Any) -> None:
    with pytest.raises(InvalidOption, match="AtSteps"):
        AtSteps(steps)


@pytest.mark.parametrize(("metric", "mode"), [("", "min"), (3, "min"), ("loss", "least")])
def test_best_is_checked_at_birth(metric: Any, mode: Any) -> None:
    with pytest.raises(InvalidOption, match="Best"):
        Best(1, metric, mode)


def test_policies_of_different_kinds_do_not_combine() -> None:
    for make in (lambda: Lucky() | Latest(1), lambda: Latest(1) & Lucky(), lambda: Latest(1) | 3):
        with pytest.raises(InvalidOption, match="cannot be combined"):
            make()


def test_a_policy_is_used_for_what_it_decides() -> None:
    both = EverySteps(2) | EverySeconds(5)
    assert save_policy(both) is both
    assert keep_policy(both) is both
    for wrong in (Latest(1), EverySteps(1) | Latest(1), "1000", 1.5, EverySteps):
        with pytest.raises(InvalidOption, match="save="):
            save_policy(wrong)  # type: ignore[arg-type]
    for wrong in (Lucky(), EverySteps(2) | Lucky(), "3", 1.5, Latest):
        with pytest.raises(InvalidOption, match="keep="):
            keep_policy(wrong)  # type: ignore[arg-type]


def test_numbers_are_short_for_the_usual_policies() -> None:
    assert save_policy(5) == EverySteps(5)
    assert keep_policy(5) == Latest(5)
    assert save_policy(None) == keep_policy(None) == Everything()
    for wrong in (0, -3, True, False):
        with pytest.raises(InvalidOption):
            save_policy(wrong)
        with pytest.raises(InvalidOption):
            keep_policy(wrong)


def test_policies_are_values() -> None:
    assert Latest(3) | Best(1, "loss") == Latest(3) | Best(1, "loss")
    assert len({EverySteps(3), EverySteps(3), AtSteps([1, 2]), AtSteps((2, 1))}) == 2
    assert repr(Latest(3) | EverySteps(5)) == "AnyOf(parts=(Latest(n=3), EverySteps(n=5)))"
    assert all(getattr(policies, name).__doc__ for name in policies.__all__)


# -------------------------------------------------------------------------------------- algebra


@given(keeping, keeping, keeping, histories)
def test_keeping_is_an_algebra_of_sets(a: Any, b: Any, c: Any, past: list[StepRecord]) -> None:
    assert (a | b).keep(past) == a.keep(past) | b.keep(past) == (b | a).keep(past)
    assert (a & b).keep(past) == a.keep(past) & b.keep(past) == (b & a).keep(past)
    assert ((a | b) & c).keep(past) == ((a & c) | (b & c)).keep(past)
    assert (a | a).keep(past) == (a & a).keep(past) == a.keep(past)
    assert (a & Everything()).keep(past) == a.keep(past) <= {one.step for one in past}


@given(saving, saving, st.integers(0, 60), contexts)
def test_saving_is_an_algebra_of_truth(a: Any, b: Any, step: int, context: SaveContext) -> None:
    yes, also = a.due(step, context), b.due(step, context)
    assert (a | b).due(step, context) == (yes or also)
    assert (a & b).due(step, context) == (yes and also)


@given(keeping, histories, st.frozensets(st.integers(0, 60), max_size=3))
def test_retention_takes_only_what_nobody_wants(
    policy: Any, past: list[StepRecord], protect: frozenset[int]
) -> None:
    gone = victims(past, policy, protect=protect)
    judged = [one for one in past if one.readable and not one.pins]
    newest = {max((one.step for one in some), default=-1) for some in (past, readable(past))}
    wanted = policy.keep(readable(past)) | protect | newest
    assert gone == sorted(one.step for one in judged if one.step not in wanted)


@given(keeping, histories, st.frozensets(st.integers(0, 60), max_size=3))
def test_what_is_explained_is_what_is_done(
    policy: Any, past: list[StepRecord], protect: frozenset[int]
) -> None:
    verdicts = policies.explain(policy, past, protect=protect)
    assert [one.step for one in verdicts] == sorted(one.step for one in past)
    gone = [one.step for one in verdicts if not one.kept]
    assert gone == victims(past, policy, protect=protect)


def readable(past: Sequence[StepRecord]) -> list[StepRecord]:
    return [one for one in past if one.readable]


def test_reasons_name_the_simple_policies_and_all_else_that_keeps_a_step() -> None:
    past = [
        *(record(1, loss=3), record(2, loss=1), record(3, loss=2), record(4, loss=0)),
        *(replace(record(5), readable=False), replace(record(6), pins=("paper",)), record(7)),
    ]
    keep = Best(2, "loss") | (EverySteps(2) & AtSteps([2, 3])) | Latest(1)
    told = {one.step: one for one in policies.explain(keep, past, protect={3})}
    assert not told[1].kept
    assert str(told[1]) == "1: deleted"
    best = "Best(n=2, metric='loss', mode='min')"
    assert told[2].reasons == (best, "EverySteps(n=2)", f"{AtSteps([2, 3])!r}")
    assert told[3].reasons == ("just saved",)
    assert told[4].reasons == (best,)
    assert told[5].reasons == ("damaged or unreadable, so not judged",)
    assert told[6].reasons == ("pinned as 'paper'",)
    assert told[7].reasons == ("Latest(n=1)", "newest")


def test_what_cannot_be_read_does_not_use_up_a_place() -> None:
    past = [record(1), record(2), replace(record(3), readable=False)]
    assert victims(past, Latest(2)) == []
    assert victims(past, Latest(1)) == [1]


@given(keeping, histories)
def test_retention_does_not_mind_the_order(policy: Any, past: list[StepRecord]) -> None:
    assert victims(past, policy) == victims(past[::-1], policy)


@pytest.mark.parametrize(
    ("policy", "steps", "left"),
    [
        (Latest(2), range(5), [3, 4]),
        (Latest(2) | EverySteps(4), range(0, 11, 2), [0, 4, 8, 10]),
        (Latest(2) | EverySeconds(3 * 3600), range(10), [0, 3, 6, 8, 9]),
        (Latest(2) | EverySeconds(3 * 3600), range(20), [0, 3, 6, 9, 12, 15, 18, 19]),
        (Best(3, "loss") | EverySeconds(3 * 3600), range(10), [0, 1, 2, 3, 6, 9]),
    ],
)
def test_the_worked_examples(policy: KeepPolicy, steps: range, left: list[int]) -> None:
    past: list[StepRecord] = []
    for step in steps:
        past.append(record(step, hours=step, loss=step))
        gone = victims(past, policy)
        past = [one for one in past if one.step not in gone]
    assert [one.step for one in past] == left


class Nothing:
    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        return set()


def test_a_policy_that_keeps_nothing_leaves_the_newest() -> None:
    assert victims(history(1, 2, 3), Nothing()) == [1, 2]
    assert victims(history(7), Nothing()) == []
    assert victims([], Nothing()) == []


def test_policies_of_the_user_combine_from_either_side() -> None:
    class Mine:
        def due(self, step: int, context: Any) -> bool:
            return step % 2 == 1

    mine: Any = Mine()
    for both in (mine & EverySteps(3), EverySteps(3) & mine):
        assert isinstance(both, policies.AllOf)
    for either in (mine | EverySteps(3), EverySteps(3) | mine):
        assert isinstance(either, policies.AnyOf)


def test_which_policies_each_process_can_ask_for_itself() -> None:
    assert goes_by_steps(EverySteps(3))
    assert goes_by_steps(EverySteps(3) | policies.AtSteps([1]))
    assert not goes_by_steps(EverySteps(3) & policies.EverySeconds(1))

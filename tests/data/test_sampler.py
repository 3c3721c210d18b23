"""The data order: every epoch a permutation, the same at any world size, a pure function of the step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.data.sampler import GlobalOrder, TokenBudgetOrder
from caad_ds.utils.errors import UserError

sizes = st.integers(1, 60)
batches = st.integers(1, 80)
seeds = st.integers(0, 2**40)


def stream(order: GlobalOrder, positions: int) -> np.ndarray:
    steps = -(-positions // order.batch_size)
    return np.concatenate([order.batch(step) for step in range(steps)])[:positions]


@given(sizes, batches, seeds)
def test_each_epochs_slice_of_the_stream_is_a_permutation(size, batch, seed):
    taken = stream(GlobalOrder(size, batch, seed), 3 * size).reshape(3, size)
    assert (np.sort(taken, axis=1) == np.arange(size)).all()


@given(sizes, batches, seeds, st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_seeking_gives_what_iterating_gives(size, batch, seed, steps):
    walked = GlobalOrder(size, batch, seed)
    expected = [walked.batch(step).tolist() for step in range(max(steps) + 1)]
    sought = GlobalOrder(size, batch, seed)
    assert [sought.batch(step).tolist() for step in steps] == [expected[step] for step in steps]


@given(st.integers(2, 60), seeds)
def test_the_stream_does_not_depend_on_the_batch_size(size, seed):
    assert (stream(GlobalOrder(size, 3, seed), 100) == stream(GlobalOrder(size, 7, seed), 100)).all()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds)
def test_ranks_share_the_global_batch_whatever_the_world_size(world, accumulation, micro, seed):
    order = GlobalOrder(100, world * accumulation * micro, seed)
    dealt = [order.micro_batches(3, world, rank, accumulation) for rank in range(world)]
    assert all(len(rank) == accumulation and {len(m) for m in rank} == {micro} for rank in dealt)
    in_order = [dealt[rank][step] for step in range(accumulation) for rank in range(world)]
    assert (np.concatenate(in_order) == order.batch(3)).all()


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40), seeds)
def test_samples_of_a_group_stay_together_and_none_is_lost(groups, seed):
    order = GlobalOrder(len(groups), len(groups), seed, groups)
    for epoch in range(2):
        drawn = order.batch(epoch)
        assert sorted(drawn) == list(range(len(groups)))
        met = [groups[number] for number in drawn]
        changes = sum(a != b for a, b in pairwise(met))
        assert changes == len(set(groups)) - 1


def test_groups_are_shuffled_anew_each_epoch():
    order = GlobalOrder(60, 60, 0, [number // 3 for number in range(60)])
    assert order.batch(0).tolist() != order.batch(1).tolist() != list(range(60))


def test_epochs_and_seeds_shuffle_differently():
    order, other = GlobalOrder(50, 50, 0), GlobalOrder(50, 50, 1)
    assert order.batch(0).tolist() != order.batch(1).tolist() != other.batch(0).tolist()
    assert order.batch(0).dtype == np.int64


def test_steps_per_epoch_counts_the_last_batch_as_a_fraction():
    assert GlobalOrder(10, 4, 0).steps_per_epoch == 2.5


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch of 10 does not divide over 4 ranks x 1"):
        GlobalOrder(20, 10, 0).micro_batches(0, 4, 0, 1)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_an_order_over_nothing_is_refused(arguments):
    with pytest.raises(UserError, match="must be at least"):
        GlobalOrder(*arguments)


budgets = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),  # lengths
    st.integers(40, 120),  # tokens of a micro-batch
    st.sampled_from([1, 2, 4, 8]),  # micro-batches of a step
    st.integers(1, 3),  # window
    seeds,
)


def micro_batches(order: TokenBudgetOrder, steps: int, world: int = 1) -> list[list[int]]:
    """The stream as `world` ranks read it, put together again."""
    accumulation = order.per_step // world
    dealt = [[order.micro_batches(step, world, rank, accumulation) for rank in range(world)] for step in range(steps)]
    return [step[rank][a].tolist() for step in dealt for a in range(accumulation) for rank in range(world)]


@given(budgets)
def test_a_token_budget_holds_and_an_epoch_is_a_permutation(budget):
    lengths, tokens, per_step, *_ = budget
    order = TokenBudgetOrder(*budget)
    taken = micro_batches(order, -(-2 * len(lengths) // per_step) + 1)
    assert all(0 < len(micro) * max(lengths[n] for n in micro) <= tokens for micro in taken)
    flat = [n for micro in taken for n in micro][: 2 * len(lengths)]
    assert sorted(flat) == sorted([*range(len(lengths))] * 2)
    assert sorted(flat[: len(lengths)]) == [*range(len(lengths))]


@given(budgets, st.sampled_from([2, 4, 8]))
def test_any_world_size_sees_the_same_micro_batches_in_the_same_step(budget, world):
    lengths, tokens, _, window, seed = budget
    order = TokenBudgetOrder(lengths, tokens, 8, window, seed)
    assert micro_batches(order, 3, world) == micro_batches(TokenBudgetOrder(lengths, tokens, 8, window, seed), 3)


@given(budgets, st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_seeking_in_a_token_budget_gives_what_iterating_gives(budget, steps):
    per_step = budget[2]
    walked = micro_batches(TokenBudgetOrder(*budget), max(steps) + 1)
    sought = TokenBudgetOrder(*budget)
    for step in steps:
        assert [m.tolist() for m in sought.micro_batches(step, 1, 0, per_step)] == walked[step * per_step :][:per_step]


def test_sorting_within_a_window_leaves_little_padding():
    lengths = np.random.default_rng(0).integers(50, 300, 4000)

    def padding(taken: list[list[int]]) -> float:
        padded = sum(len(micro) * lengths[micro].max() for micro in taken)
        return 1 - sum(lengths[micro].sum() for micro in taken) / padded

    unsorted = padding(
        [micro.tolist() for step in range(40) for micro in GlobalOrder(4000, 96, 0).micro_batches(step, 1, 0, 8)]
    )
    assert padding(micro_batches(TokenBudgetOrder(lengths, 2400, 8, 16, 0), 40)) < 0.01 < 0.3 < unsorted

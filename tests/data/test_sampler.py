"""The data order: every epoch a permutation, the same at any world size, a pure function of the step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.data.sampler import GlobalOrder, deal
from caad_ds.errors import UserError

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


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_ranks_share_the_global_batch_whatever_the_world_size(world, accumulation, micro, data):
    indices = np.array(data.draw(st.permutations(range(world * accumulation * micro))))
    dealt = [deal(indices, world, rank, accumulation) for rank in range(world)]
    assert all(len(rank) == accumulation and {len(m) for m in rank} == {micro} for rank in dealt)
    in_order = [dealt[rank][step] for step in range(accumulation) for rank in range(world)]
    assert (np.concatenate(in_order) == indices).all()


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
        deal(np.arange(10), 4, 0, 1)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_an_order_over_nothing_is_refused(arguments):
    with pytest.raises(UserError, match="must be at least"):
        GlobalOrder(*arguments)

"""Memory of cached rows is reused when no one refers to it any more, and never before."""

import gc

import pytest
import torch

from caad_ds.distill.teacher_cache.buffers import KEPT, STEP, Buffers
from caad_ds.distill.teacher_cache.row_layout import Layout

LAYOUTS = [Layout(form, 7, dtype) for form in ("pair", "contrast") for dtype in ("fp32", "bf16")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_tensors_are_those_of_the_layout_and_do_not_overlap(layout):
    like, made = layout.empty(5), Buffers(layout).rows(5)
    assert [(t.shape, t.dtype) for t in made] == [(t.shape, t.dtype) for t in like]
    for number, tensor in enumerate(made):
        tensor.fill_(number)
    assert all(bool((tensor == number).all()) for number, tensor in enumerate(made))


def test_memory_is_used_again_only_when_the_last_view_is_gone():
    buffers = Buffers(LAYOUTS[0])
    made = buffers.rows(100)
    place = made[-1].untyped_storage().data_ptr()
    view = made[0][3:4].t()
    del made
    gc.collect()
    other = buffers.rows(100)
    assert other[-1].untyped_storage().data_ptr() != place
    view.fill_(1)
    other[0].fill_(2)
    assert bool((view == 1).all())
    del view
    gc.collect()
    assert buffers.rows(90)[-1].untyped_storage().data_ptr() == place


def test_a_buffer_that_is_too_small_is_not_used_and_few_are_kept():
    buffers = Buffers(LAYOUTS[0])
    del (small := [buffers.rows(1)])[:]
    rows = STEP // LAYOUTS[0].bytes_per_row + 1
    assert buffers.rows(rows)[0].shape == (rows, 7) and not small
    held = [buffers.rows(1) for _ in range(3 * KEPT)]
    held.clear()
    gc.collect()
    assert len(buffers._free) == KEPT
    assert torch.equal(buffers.rows(2)[0].fill_(3), torch.full((2, 7), 3.0))

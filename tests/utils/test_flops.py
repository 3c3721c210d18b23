"""Counting floating-point operations."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoConfig, AutoModel

from caad_ds.training.plan.shape_run import ShapeRun
from caad_ds.utils.flops import KERNELS, flop_counter
from tests.training.tiny import llama

QUERY, VALUE = (2, 6, 5, 8), (2, 6, 7, 8)  # batch, heads, length, width
FORWARD, BACKWARD = sdpa_flop_count(QUERY, VALUE, VALUE), sdpa_backward_flop_count(QUERY, QUERY, VALUE, VALUE)


@pytest.mark.parametrize("heads", [6, 2], ids=["each query its own keys", "grouped queries"])
def test_attention_on_a_cpu(heads):
    query = torch.randn(QUERY, requires_grad=True)
    key, value = torch.randn(2, 2, heads, 7, 8, requires_grad=True).unbind()
    with flop_counter() as counter:
        out = scaled_dot_product_attention(query, key, value, enable_gqa=heads != 6)
    assert counter.get_total_flops() == FORWARD
    with flop_counter() as counter:
        out.sum().backward()
    assert counter.get_total_flops() == BACKWARD


@pytest.mark.parametrize("kernel", [name for name in KERNELS if "cpu" not in name])
def test_grouped_queries_in_the_kernels_of_a_gpu(kernel):
    query, key = torch.empty(QUERY, device="meta"), torch.empty(2, 2, 7, 8, device="meta")
    attention = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")
    arguments = () if kernel == "flash_attention" else (None, False)
    with flop_counter() as counter:
        attention(query, key, key, *arguments)
    assert counter.get_total_flops() == FORWARD


def backward_peak(layers, counting):
    """Most bytes of tensors in the backward of a small LLM that recomputes its layers."""
    model = AutoModel.from_config(AutoConfig.for_model(**llama(layers, 64))).train().requires_grad_(False)
    model.gradient_checkpointing_enable()
    with ShapeRun(model.parameters()) as run, counting():
        embedded = torch.randn(2, 50, 32, requires_grad=True)
        hidden = model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        run.restart()
        hidden.backward(torch.ones_like(hidden))
    return run.peak


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`")
def test_a_counted_backward_keeps_nothing_that_it_recomputes():
    """The count splits operators, which takes some memory inside a layer; it is the same for six times the layers."""
    more = [backward_peak(layers, flop_counter) - backward_peak(layers, nullcontext) for layers in (2, 12)]
    assert more[0] == more[1] < backward_peak(2, nullcontext) / 2

"""Counting floating-point operations."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from caad_ds.utils.flops import KERNELS, flop_counter

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

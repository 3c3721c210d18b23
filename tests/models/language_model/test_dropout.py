"""Dropout is off, wherever a family keeps its rates."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedModel

from caad_ds.models.language_model.dropout import turn_off_dropout

RATES = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},  # modules of their own
    "qwen2": {"attention_dropout": 0.5},  # read of an attribute
    "opt": {"dropout": 0.5, "layerdrop": 0.5, "num_hidden_layers": 6},  # and a layer that is left out
}
SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "ffn_dim": 16, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "word_embed_proj_dim": 16}


def outputs(model: PreTrainedModel) -> list[torch.Tensor]:
    """Of two forwards in training."""
    model.train()
    return [model(torch.arange(8)[None])[0] for _ in range(2)]


@pytest.mark.parametrize("kind", RATES)
def test_two_forwards_in_training_are_equal(kind):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **RATES[kind]))
    assert not torch.equal(*outputs(model))
    turn_off_dropout(model)
    assert torch.equal(*outputs(model))


def test_the_config_that_is_saved_keeps_its_rates():
    model = BertModel(BertConfig(vocab_size=40, hidden_size=16, num_attention_heads=2, num_hidden_layers=1))
    turn_off_dropout(model)
    assert model.config.hidden_dropout_prob == 0.1
    inner = model.encoder.config
    assert inner.hidden_dropout_prob == inner.attention_probs_dropout_prob == 0 and inner.hidden_size == 16

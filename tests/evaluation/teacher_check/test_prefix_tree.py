"""Sequences with common prefixes give the same states as each sequence alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from caad_ds.evaluation.teacher_check.option_likelihoods import cuts
from caad_ds.evaluation.teacher_check.prefix_tree import can_share, levels
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.whisper_qformer.llm_forward import hidden_states
from tests.evaluation.conftest import LOUD, tiny_parts
from tests.tolerance import assert_close, path

pytestmark = pytest.mark.numeric
VOCABULARY, AUDIO = 6, 3
SHAPE = {"hidden_size": 32, "vocab_size": 40, "num_hidden_layers": 2, "initializer_range": LOUD}

LLAMA = {"model_type": "llama", "num_attention_heads": 4, "intermediate_size": 48, "num_key_value_heads": 2}


@pytest.fixture(
    scope="module",
    params=[
        LLAMA,
        LLAMA | {"model_type": "mistral", "sliding_window": 3},
        {"model_type": "gpt2", "n_head": 4},
        {"model_type": "bloom", "n_head": 4},
    ],
    ids=lambda settings: settings["model_type"],
)
def model(request):
    torch.manual_seed(0)
    _, encoder, _ = tiny_parts()
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE | request.param)).eval()
    return build(llm, encoder, None, num_queries=AUDIO, qformer_layers=1, qformer_heads=2).eval()


sequences = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 1), st.integers(0, 1)),
        st.lists(st.integers(-AUDIO, VOCABULARY), min_size=1, max_size=12).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=15, deadline=None)
@given(sequences)
def test_states_are_those_of_each_sequence_by_itself(model, asked):
    assert can_share(model.llm)
    groups, ids = [group for group, _ in asked], [sequence for _, sequence in asked]
    audio = torch.randn(AUDIO, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(0))
    found = [[] for _ in ids]
    for level in levels(model, audio, ids, cuts(ids, groups)):
        for i in range(len(ids)):
            found[i].append(level.hidden[level.node[i], : level.end[i] - level.start[i]])
    tokens = model.get_input_embeddings()
    for i, sequence in enumerate(ids):
        embeds = torch.stack([tokens.weight[n] if n >= 0 else audio[-1 - n] for n in sequence])[None]
        ones = torch.ones(1, len(sequence), dtype=torch.long)
        with torch.no_grad():
            expected = hidden_states(model.llm, embeds, ones, ones.cumsum(1) - 1)
        assert_close(torch.cat(found[i]), expected[0], path(model.llm, positions=len(sequence)))

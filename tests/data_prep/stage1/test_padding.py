"""A causal LM that cannot be padded answers no batch."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from caad_ds.utils.errors import UserError
from data_prep.stage1.engines.transformers import TransformersEngine


def test_an_llm_whose_answers_depend_on_the_batch_is_refused(tmp_path):
    shape = {"vocab_size": 64, "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **shape)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="type rwkv cannot answer in batches: padding on the left changes its logits"):
        TransformersEngine(str(tmp_path), batch_size=2)
    with pytest.raises(UserError, match=r"no chat template|no tokenizer"):  # one by one it may
        TransformersEngine(str(tmp_path), batch_size=1)

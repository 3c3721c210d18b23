"""A small config of any type of causal LM, by the names that their sizes have in transformers."""

from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, LIMIT, WINDOW, LAYERS = 96, 128, 8, 3

SIZES = (
    (32, "hidden_size d_model n_embd embed_dim dim embedding_size hidden_dim lru_width attention_hidden_size"),
    (64, "intermediate_size ffn_dim n_inner ffn_hidden_size decoder_ffn_dim encoder_ffn_dim d_inner dff"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts"),
    (4, "num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk"),
    (8, "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim attention_head_dim global_head_dim d_kv"),
    (16, "moe_intermediate_size kv_lora_rank q_lora_rank shared_expert_intermediate_size moe_ffn_hidden_size"),
    (1, "n_group topk_group n_shared_experts num_shared_experts first_k_dense_replace"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (LIMIT, "max_position_embeddings n_positions max_seq_len max_target_positions n_ctx"),
    (WINDOW, "sliding_window attention_window_size window_size attention_chunk_size"),
)
SMALL = {name: size for size, names in SIZES for name in names.split()}
FACTORS = {"logits_scaling": 8.0, "lm_head_multiplier": 0.3}  # 1 by default, where nothing would show


def small(values: dict[str, Any], fixed: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a config with the sizes of a small model; nested configs too."""
    out: dict[str, Any] = {}
    layers = next((values[name] for name in ("num_hidden_layers", "n_layer", "num_layers") if name in values), None)
    for name, value in values.items():
        if isinstance(value, list) and name.endswith("token_id"):
            value = [2]
        elif isinstance(value, list) and len(value) == layers:  # one entry a layer: every kind of layer there is
            kinds = [SMALL.get(name, kind) for kind in dict.fromkeys(value)]
            value = [kinds[n % len(kinds)] for n in range(LAYERS)]
        elif value is None and name in ("head_dim", "num_key_value_heads"):
            value = SMALL[name]
        elif isinstance(value, dict) and name.endswith("config"):
            value = small(value)
        elif name in SMALL and isinstance(value, int) and not isinstance(value, bool):
            value = SMALL[name]
        elif name in FACTORS:
            value = FACTORS[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int):
            value = {"pad": 0, "bos": 1, "eos": 2}.get(name.split("_")[0], min(value, VOCABULARY - 1))
        if name != "per_layer_config":  # made again of the other settings
            out[name] = value
    if "kv_lora_rank" in out:  # latent attention has as many keys as queries
        out["num_key_value_heads"] = SMALL["num_attention_heads"]
    return out | (fixed or {})


STATE = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16, "mamba_n_groups": 1}
FIXED: dict[str, dict[str, Any]] = {
    "bamba": STATE,
    "bailing_hybrid": {"num_key_value_heads": 4, "num_experts": 8, "n_group": 1, "group_norm_size": 1},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": STATE | {"mamba_d_ssm": 64},
    "gpt_neo": {
        "attention_types": [[["global", "local", "local"], 1]],
        "attention_layers": ["global", "local", "local"],
    },
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": STATE | {"layer_types": ["mamba", "attention", "mamba"]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"num_experts_per_token": 2, "num_expert_group": 1, "num_attention_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 16, "head_dim": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "xlnet": {"d_head": 8},
    "xlstm": {"embedding_dim": 32, "num_blocks": 3, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}


def settings(kind: str) -> dict[str, Any]:
    """A small config of a type; encoders are asked for as decoders."""
    values = CONFIG_MAPPING[kind]().to_dict()
    drop = (
        "transformers_version",
        "architectures",
        "dtype",
        "_name_or_path",
        "id2label",
        "label2id",
        "per_layer_config",
    )
    values = {name: value for name, value in values.items() if name not in drop}
    values = small(values, FIXED.get(kind))
    if "is_decoder" in values:
        values["is_decoder"] = True
    return values | {"model_type": kind}

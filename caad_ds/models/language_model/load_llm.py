"""Load the causal LM of a speech language model, and check it against its own forward.

How a family treats embeddings, positions, padding and logits is measured on a few tokens, not looked up by name.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from caad_ds.loss.head import LMHead
from caad_ds.models.language_model.head_form import HeadForm, measured_form
from caad_ds.models.pretrained import pretrained
from caad_ds.models.prompts.answer_turn import FORM
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.models.whisper_qformer.llm_forward import accepted, hidden_states, lm_body, token_embeddings
from caad_ds.models.whisper_qformer.prompt_ids import PIECES
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.files import read_json

# Names of the longest sequence in transformers configs; the first that exists counts.
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "n_ctx")
# Types of rotary positions that are stretched for all lengths by one factor of the original positions.
STRETCHED = ("linear", "yarn", "llama3")
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken", "tekken.json")

PROBED, PADS, STEPS = 8, 3, 3  # tokens of the check: in a prompt, of padding, decoded
# Known to fail beyond the few tokens of the check.
REFUSED = {"moshi": "beyond its sliding window its cache forgets what its forward still reads"}
# How far rounding may move hidden states, relative to their size: other padding changes the order of summation in each
# layer. Unsupported behaviour moves them by a multiple of that.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 0.1}


def load_llm(name: str, dtype: torch.dtype | str, keep_layers: int | None = None) -> PreTrainedModel:
    """Load a causal LM and check it.

    Args:
        name: a hub id or folder.
        dtype: of its weights; "auto" for its checkpoint's.
        keep_layers: keep only this many of its first layers.

    Raises:
        UserError: it does not exist, lacks weights, or `check_llm` refuses it.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        cut_layers(config, keep_layers, name)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{name}: no causal LM there ({reason}); give a hub id or a folder") from error
    llm = pretrained(AutoModelForCausalLM, name, "causal LM", config=config, dtype=dtype)
    check_llm(llm, name)
    return llm


def build_llm(values: dict[str, Any], name: str, keep_layers: int | None = None) -> PreTrainedModel:
    """Build a causal LM with random weights in fp32 from the settings of its config, and check it.

    Raises:
        UserError: no model can be built from `values`, or `check_llm` refuses it.
    """
    try:
        config = AutoConfig.for_model(**values)
        config.dtype = None  # a published config has its weights' dtype; random weights are fp32
        cut_layers(config, keep_layers, name)
        llm = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name}: no model can be built of it: {reason}; change its settings") from error
    if not llm.get_input_embeddings().weight.is_meta:  # a meta model is only for shapes
        check_llm(llm, name)
    return llm


def cut_layers(config: PreTrainedConfig, keep_layers: int | None, name: str) -> None:
    """Reduce a config to its first `keep_layers` layers; UserError if it has fewer."""
    if keep_layers is None:
        return
    have = getattr(config, "num_hidden_layers", None)
    if have is None:
        raise UserError(f"{name}: keep_layers: a config of type {config.model_type} names no number of layers")
    if keep_layers > have:
        raise UserError(f"{name}: keep_layers {keep_layers} exceeds its {have} layers; lower it")
    per_layer = {key: value for key, value in vars(config).items() if "layer" in key and isinstance(value, list)}
    config.num_hidden_layers = keep_layers
    for key, value in per_layer.items():  # layer_types, mlp_layer_types, ...
        if len(value) == have:
            setattr(config, key, value[:keep_layers])


def position_limit(config: Any) -> int | None:
    """Return the most positions that a causal LM reads, by its config; None if the config has no limit.

    For `longrope` rotary positions (Phi-3) it is the original limit: a longer sample changes the frequencies of its
    whole batch, and the other samples' states would depend on it. For positions stretched by a fixed factor it is the
    stretched limit, even if the config has the original one (Qwen's YaRN).
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    own = getattr(text, "original_max_position_embeddings", None)
    for scaling in (rope, *(part for part in rope.values() if isinstance(part, dict))):  # some have one per layer type
        original = scaling.get("original_max_position_embeddings", own)
        if scaling.get("rope_type") == "longrope" and original:
            return original
    limits = (getattr(text, name, None) for name in POSITION_NAMES)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is not None and rope.get("rope_type") in STRETCHED:
        original, factor = rope.get("original_max_position_embeddings", own), rope.get("factor")
        return max(limit, int(original * factor)) if original and factor else limit
    return limit


def lm_head(llm: PreTrainedModel) -> LMHead:
    """Return the LM head: weight [V, H], bias, soft cap and constant factor.

    Under ZeRO-3 read it only inside a gathering context. A model without a `check_llm` is checked first.
    """
    form = getattr(llm, "_caad_head", None)
    if form is None:
        form = check_llm(llm, type(llm).__name__)
    layer = llm.get_output_embeddings()
    return LMHead(layer.weight, getattr(layer, "bias", None), form.softcap, form.scale)


def check_llm(llm: PreTrainedModel, name: str) -> HeadForm:
    """Check on a few tokens that a causal LM's own forward fits what is built around it, and keep its head's form.

    Its hidden states must not depend on padding on either side nor on later tokens, embeddings must be equivalent to
    ids, and logits must be the head's product up to a constant factor and a soft cap. Needs whole weights: call it
    before ZeRO-3 partitions them.

    Raises:
        UserError: naming what does not hold.
    """
    kind = llm.config.model_type
    check_stops(llm.generation_config.stop_strings, name)
    with at_rest(llm):
        try:
            if kind in REFUSED:
                raise UserError(REFUSED[kind])
            form = _checked_form(llm)
        except UserError as error:
            raise UserError(f"{name}: a causal LM of type {kind} cannot be used: {error}; take another LLM") from None
        except Exception as error:  # another family's code may raise anything on these arguments
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"{name}: a causal LM of type {kind} cannot be used, its forward fails on embeddings ({reason}); "
                "take another LLM"
            ) from error
    llm._caad_head = form  # type: ignore[assignment]
    return form


def check_audio_head(model: PreTrainedModel, name: str, avoid: int) -> HeadForm:
    """Compare an audio LLM's logits of a few tokens with its head's product, and keep the head's form.

    `avoid` is the id of its placeholder for audio. Needs whole weights.

    Raises:
        UserError: the logits are not the product up to a constant factor and a soft cap.
    """
    kind = model.config.model_type
    try:
        with at_rest(model):
            table = token_embeddings(model)
            spread = torch.arange(1, PROBED + 1, device=table.device)[None] * max(1, len(table) // (PROBED + 1))
            ids = spread % len(table)
            ids = torch.where(ids == avoid, ids - 1, ids)
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            hidden = model.base_model(**given).last_hidden_state[0]
            form = measured_form(model, hidden, lambda: model(**given).logits)
    except UserError as error:
        raise UserError(f"{name}: a model of type {kind} cannot be used: {error}; take another model") from None
    except Exception as error:  # a family's code may raise anything on an inconsistent config
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"{name}: a model of type {kind} cannot be used, its forward fails on tokens ({reason}); correct its config"
        ) from error
    model._caad_head = form  # type: ignore[assignment]
    return form


@contextmanager
def at_rest(llm: PreTrainedModel) -> Iterator[None]:
    """Run the block in evaluation mode without gradients, and restore the random state."""
    training = llm.training
    llm.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield
    llm.train(training)


def _checked_form(llm: PreTrainedModel) -> HeadForm:
    table, body, layer = llm.get_input_embeddings(), lm_body(llm), llm.get_output_embeddings()
    if layer is None or getattr(layer, "weight", None) is None:
        raise UserError("it has no LM head of its own")
    if body is llm:
        raise UserError("its hidden states cannot be computed without its head")
    if MODEL_FOR_CAUSAL_LM_MAPPING.get(type(llm.config), None) is not type(llm):
        raise UserError(f"a {type(llm).__name__} could not be built again of the config that it has")
    if "inputs_embeds" not in inspect.signature(llm.prepare_inputs_for_generation).parameters:
        raise UserError("it does not generate from embeddings")
    device = table.weight.device
    rows = len(table.weight)
    ids = torch.arange(1, PROBED + 1, device=device)[None] * max(1, rows // (PROBED + 1)) % rows
    embeds = table(ids)
    whole, count = torch.ones_like(ids), torch.arange(PROBED, device=device)[None]
    plain = hidden_states(llm, embeds, whole, count)
    by_id = body(input_ids=ids, **accepted(body, attention_mask=whole, position_ids=count, use_cache=False))
    _require_alike(by_id.last_hidden_state, plain, "its states of embeddings are not those of their tokens")
    right, left, changed, _ = hidden_states(llm, *_padded(embeds)).unbind()
    _require_alike(right[:PROBED], plain[0], "padding on the right changes its states")
    _require_alike(left[PADS:], plain[0], "padding on the left changes its states")
    _require_alike(changed[: PROBED - 1], plain[0, :-1], "a later token changes its states, it is not causal")
    more = accepted(llm, attention_mask=whole, position_ids=count, use_cache=False)
    _check_decoding(llm, embeds)
    return measured_form(llm, plain[0], lambda: llm(inputs_embeds=embeds, **more).logits)


def check_left_padding(llm: PreTrainedModel, name: str) -> None:
    """Refuse an LLM whose answers depend on the longest prompt of the batch; for callers that pass tokens."""
    with at_rest(llm):
        rows = len(token_embeddings(llm))
        ids = torch.arange(1, PROBED + 1, device=llm.device)[None] * max(1, rows // (PROBED + 1)) % rows
        padded, mask = torch.cat([ids[:, :PADS], ids], 1), torch.ones_like(ids)
        hidden = torch.cat([torch.zeros_like(ids[:, :PADS]), mask], 1)
        plain, left = (
            llm(input_ids=each, **accepted(llm, attention_mask=seen, position_ids=positions(seen), use_cache=False))
            for each, seen in ((ids, mask), (padded, hidden))
        )
        try:
            _require_alike(left.logits[:, PADS:], plain.logits, "padding on the left changes its logits")
        except UserError as error:
            kind = llm.config.model_type
            raise UserError(f"{name}: a causal LM of type {kind} cannot answer in batches: {error}") from None


def _check_decoding(llm: PreTrainedModel, embeds: Tensor) -> None:
    """Check that a step with a cache gives the same as a whole forward at its position."""
    fixed = GenerationConfig(
        max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, num_beams=1, pad_token_id=0, bos_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    mask = embeds.new_ones(1, PROBED, dtype=torch.long)
    ask = accepted(llm, position_ids=positions(mask))
    with plain_generation(llm):
        output = cast(Any, llm).generate(inputs_embeds=embeds, attention_mask=mask, generation_config=fixed, **ask)
    steps = len(output.logits)
    tokens = output.sequences[:, -steps:][:, :-1]
    mask = embeds.new_ones(1, PROBED + steps - 1, dtype=torch.long)
    more = accepted(llm, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    whole = llm(inputs_embeds=torch.cat([embeds, llm.get_input_embeddings()(tokens)], 1), **more).logits
    _require_alike(torch.cat(output.logits), whole[0, -steps:], "a step with a cache differs from a whole forward")


def _padded(embeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return four variants of the tokens [1, T, E], as [4, T + PADS, E] with masks and positions: padded on the right,
    on the left, on the right with another last token, and with embeddings of no token, like audio."""
    pads = embeds[:, 1 : 1 + PADS]
    changed = torch.cat([embeds[:, :-1], embeds[:, :1]], 1)
    rows = [torch.cat(row, 1) for row in ((embeds, pads), (pads, embeds), (changed, pads), (embeds / 2, pads))]
    mask = embeds.new_ones(4, PROBED + PADS, dtype=torch.long)
    mask[0, PROBED:] = mask[1, :PADS] = mask[2:, PROBED:] = 0
    return torch.cat(rows), mask, positions(mask)


def _require_alike(actual: Tensor, expected: Tensor, otherwise: str) -> None:
    """Raise UserError(otherwise) if most rows differ by more than rounding.

    Not any row: in bfloat16 one may be routed to another expert.
    """
    difference = (actual - expected).float().norm(dim=-1) / expected.float().norm(dim=-1).clamp_min(1e-30)
    typical = difference.flatten().median().item()
    if not typical <= TOLERANCE.get(expected.dtype, 0.1):
        raise UserError(f"{otherwise} (by {typical:.2g} of their size)")


@contextmanager
def plain_generation(llm: PreTrainedModel) -> Iterator[None]:
    """Set aside the checkpoint's generation config, from which `generate` takes its defaults."""
    own, llm.generation_config = llm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        llm.generation_config = own


def check_stops(strings: Any, name: str) -> None:
    """Refuse a checkpoint whose answers end at strings (`stop_strings` of its generation config) instead of tokens."""
    if strings:
        raise UserError(
            f"{name}: its generation_config.json ends answers at the texts {strings!r:.80} (stop_strings), and here "
            "tokens end them; put the ids of its end tokens into eos_token_id there, and remove stop_strings"
        )


def check_vocabulary(llm: PreTrainedModel, tokenizer: Any, where: str) -> None:
    """Refuse a tokenizer with a token id outside the embedding."""
    rows = len(token_embeddings(llm))
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise UserError(
            f"{where}: token {token!r} of the tokenizer {tokenizer.name_or_path} has id {largest}, but the embedding "
            f"has {rows} rows; take a tokenizer of these weights, or raise vocab_size"
        )


def check_own_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids differ from those of the tokenizer beside the weights of `name`, if there is one.

    Only vocabularies are compared: another chat template over the same vocabulary is fine, and so are tokens added
    after it.
    """
    if Path(name).is_dir() and not any(next(Path(name).glob(pattern), None) for pattern in TOKENIZER_FILES):
        return
    try:
        own, used = load_tokenizer(name).get_vocab(), tokenizer.get_vocab()
    except UserError as error:
        if Path(name).is_dir():
            raise
        raise UserError(
            f"{error}; {tokenizer.name_or_path} is to be compared with it: if these weights have none of their own, "
            "download them and give the folder"
        ) from error
    there = f"{name}: the tokenizer {tokenizer.name_or_path} is not that of these weights:"
    remedy = "set student.tokenizer to their own, or take weights of that vocabulary"
    by_id = {number: token for token, number in used.items()}
    for token, number in own.items():
        if used.get(token, number) != number:
            raise UserError(f"{there} {token!r} has id {used[token]}, and here {number}; {remedy}")
        if by_id.get(number, token) != token:
            raise UserError(f"{there} id {number} is {by_id[number]!r}, and here {token!r}; {remedy}")


def load_tokenizer(name: str | Path, settings: TemplateSettings | None = None) -> Any:
    """Load the tokenizer of a hub id or folder, with a frozen chat template; UserError if there is none."""
    try:
        # With a tekken.json transformers uses mistral-common if installed, which writes ids and no text.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, mistral_format=False)
    except (OSError, ValueError, ImportError) as error:  # a format may need a package that is not installed
        reason = first_line(error)
        raise UserError(f"{name}: no tokenizer there ({reason}); give a hub id or a folder") from error
    config = Path(name) / "config.json"
    if config.is_file() and read_json(config, "give a complete folder").get("model_type") == SpeechLMConfig.model_type:
        tokenizer.init_kwargs.setdefault(FORM, PIECES)  # saved before models recorded how their ids are made
    return freeze_template(tokenizer, settings)

"""Check a causal LM against its own forward.

How a family treats embeddings, positions, padding and logits is measured on a few tokens, not looked up by name.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from caad_ds.models.language_model.head_form import HeadForm, measured_form
from caad_ds.models.language_model.plain_generation import plain_generation
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.models.whisper_qformer.llm_forward import accepted, hidden_states, lm_body, token_embeddings
from caad_ds.utils.errors import UserError

PROBED, PADS, STEPS = 8, 3, 3  # tokens of the check: in a prompt, of padding, decoded
# Known to fail beyond the few tokens of the check.
REFUSED = {"moshi": "beyond its sliding window its cache forgets what its forward still reads"}
# How far rounding may move hidden states, relative to their size: other padding changes the order of summation in each
# layer. Unsupported behaviour moves them by a multiple of that.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 0.1}


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
    with evaluation_mode(llm):
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
        with evaluation_mode(model):
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
def evaluation_mode(llm: PreTrainedModel) -> Iterator[None]:
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
    with evaluation_mode(llm):
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

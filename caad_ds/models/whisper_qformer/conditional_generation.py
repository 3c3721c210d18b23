"""The speech language model with its encoder, for transformers' pipelines and trainers."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .config import SpeechLMConfig
from .embedded_batch import positions
from .encoder import SpeechEncoder
from .llm_forward import accepted
from .speech_lm import SpeechLM


class SpeechLMForConditionalGeneration(SpeechLM, GenerationMixin):
    """A `SpeechLM` and its frozen encoder: from tokens and audio features to logits and answers.

    The encoder stays in float32, as in training, whatever dtype the model is loaded in.
    """

    main_input_name = "input_ids"
    input_modalities: ClassVar[list[str]] = ["audio", "text"]  # type: ignore[misc]
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["encoder.whisper"]  # type: ignore[misc]
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = []  # type: ignore[misc]

    def __init__(self, config: SpeechLMConfig):
        if config.encoder_config is None or config.audio_token_id is None:
            raise ValueError(
                "the encoder's weights are not in this folder, which an earlier version of caad-ds wrote; write it "
                "again with `caad-ds export`"
            )
        super().__init__(config)
        self.encoder = SpeechEncoder.from_config(config.encoder_config, config.taps or [], config.final_norm)
        self.post_init()

    def train(self, mode: bool = True) -> "SpeechLMForConditionalGeneration":
        """Set training mode; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "encoder"):
            self.encoder.eval()
        return self

    def embedded(self, input_ids: Tensor, input_features: Tensor | None = None) -> Tensor:
        """Compute embeddings [B, S, H] of tokens int64 [B, S], with audio merged in.

        `input_features` [A, mel, frames] are the audios of all prompts in order of appearance. ValueError if their
        number is not that of the prompts' placeholders.
        """
        audio = input_ids.eq(cast(int, self.config.audio_token_id))
        tokens = input_ids.masked_fill(audio, 0)  # its id may be outside the vocabulary, and is overwritten
        if input_features is None:
            if audio.any():
                raise ValueError("the prompt has places for audio; give input_features as well")
            return self.get_input_embeddings()(tokens)
        projected = self.project(self.encoder.encode(input_features))
        return self.merge_audio(tokens, audio, projected.to(tokens.device))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        num_items_in_batch: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits [B, S, V] of prompts and answers, and with `labels` the mean cross-entropy of the next tokens.

        Args:
            input_ids: int64 [B, S], with `audio_token_id` at the positions of audio.
            input_features: [A, mel, frames], the audios of all prompts in order of appearance.
            attention_mask: int64 [B, S], 0 at padding on either side; with a cache [B, P + S].
            labels: int64 [B, S]; -100 is ignored, and so is audio.
            inputs_embeds: [B, S, H] instead of `input_ids`.
            position_ids: int64 [B, S]; by default they count attended tokens.
            past_key_values: keys and values of a prefix.
            num_items_in_batch: divisor of the summed cross-entropy; by default its number of tokens.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embedded(input_ids, input_features)
        if position_ids is None and attention_mask is not None:
            position_ids = positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        given = {"position_ids": position_ids, "past_key_values": past_key_values}
        given = accepted(self.llm, **{name: value for name, value in given.items() if value is not None})
        output = self.llm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **given, **kwargs)
        loss = None
        if labels is not None:
            labels = labels.masked_fill(labels.eq(cast(int, self.config.audio_token_id)), -100)
            loss = self.loss_function(
                output.logits, labels, output.logits.shape[-1], num_items_in_batch=num_items_in_batch
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=output.logits,
            past_key_values=getattr(output, "past_key_values", None),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer left-padded prompts: int64 [B, S + T] including the prompts, as transformers' `generate` returns them.

        Calls the LLM's own `generate`, with its kind of cache and all other arguments. Decoding is greedy unless
        `generation_config` or an argument changes that.
        """
        if input_ids is None:
            raise ValueError("give input_ids, as the processor makes them")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self.llm.generation_config = self.generation_config  # defaults are this model's
        written = cast(Any, self.llm).generate(
            inputs_embeds=self.embedded(input_ids, input_features),
            attention_mask=attention_mask,
            generation_config=generation_config,
            **accepted(self.llm, position_ids=positions(attention_mask)),
            **kwargs,
        )
        answers = written if isinstance(written, Tensor) else written.sequences
        prompts = input_ids.repeat_interleave(len(answers) // len(input_ids), 0)
        whole = torch.cat([prompts, answers.to(prompts.device)], 1)
        if isinstance(written, Tensor):
            return whole
        written.sequences = whole
        return written

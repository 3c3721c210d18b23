"""The connector: learned queries read the tapped encoder layers (DeSTA2, section 3)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from .audio_states import AudioStates

ConnectorForm = Literal["blip2", "desta"]
DESTA_FEED_FORWARD = 3072  # BERT base's, which DeSTA uses at any width


class QFormerConnector(nn.Module):
    """K learned queries per tapped layer go through one shared Q-Former; the taps are mixed per query.

    The mix is a softmax over layer weights [taps, K], followed by LayerNorm and a Linear to the LLM's width.
    `normalize` first scales every frame of the states to mean 0 and variance 1: a few dimensions of Whisper's states
    dominate, and a randomly initialized connector learns to ignore them only slowly. `form` is "blip2" (BLIP-2's
    Q-Former: LayerNorm on the queries, feed-forward of four times the width) or "desta" (as in the published DeSTA
    connectors: queries without LayerNorm, feed-forward of 3072 at any width).
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        llm_dim: int,
        taps: int,
        queries: int,
        layers: int,
        heads: int,
        normalize: bool = False,
        form: ConnectorForm = "blip2",
    ):
        super().__init__()
        self.normalize = normalize
        std = 1.0 if form == "desta" else 0.02  # normalized queries may start at any scale
        self.queries = nn.Parameter(torch.randn(taps, queries, encoder_dim) * std)
        self.layer_weights = nn.Parameter(torch.zeros(taps, queries))
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=encoder_dim,
                encoder_hidden_size=encoder_dim,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=DESTA_FEED_FORWARD if form == "desta" else 4 * encoder_dim,
                cross_attention_frequency=1,
                # No dropout: the loss must not depend on how a batch is split over ranks.
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        if form == "desta":
            self.qformer.layernorm = None  # type: ignore[assignment]  # an unused weight would never get a gradient
        self.norm = nn.LayerNorm(encoder_dim)
        self.project = nn.Linear(encoder_dim, llm_dim)

    def forward(self, states: AudioStates) -> Tensor:
        """Compute connector outputs [A, K, H] from the states [A, taps, frames, D] of A audios."""
        audios, taps, frames, dim = states.hidden.shape
        dtype = self.queries.dtype
        hidden = F.layer_norm(states.hidden, (dim,)) if self.normalize else states.hidden
        memory = hidden.reshape(audios * taps, frames, dim).to(dtype)
        read = self._read(memory, audios).unflatten(0, (audios, taps))
        mixed = (read * self.layer_weights.softmax(0)[None, :, :, None]).sum(1)
        return self.project(self.norm(mixed.to(dtype)))

    def _read(self, memory: Tensor, audios: int) -> Tensor:
        """Run the Q-Former: [A * taps, frames, D] to [A * taps, K, D].

        Its first self-attention, among queries that have not met any audio, is the same for all audios and runs once.
        """
        layers: Any = self.qformer.encoder.layer
        first, *others = layers
        norm = self.qformer.layernorm
        queries = self.queries if norm is None else norm(self.queries)
        attended = first.attention(hidden_states=queries).repeat(audios, 1, 1)
        attended = first.crossattention(hidden_states=attended, encoder_hidden_states=memory)
        hidden = first.feed_forward_chunk_query(attended)
        for layer in others:
            hidden = layer(hidden, encoder_hidden_states=memory, query_length=hidden.shape[1])
        return hidden

"""The connector: learned queries read the tapped encoder layers (DeSTA2, section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from caad_ds.models.states import AudioStates


class QFormerConnector(nn.Module):
    """K learned queries per tapped layer go through one shared Q-Former; the taps are mixed per query.

    The mix is a softmax over layer weights [taps, K], followed by LayerNorm and a Linear to the LLM's width.
    `normalize` brings every frame of the states to mean 0 and variance 1 first: a few dimensions of Whisper's states
    outweigh all others, and a connector that starts from random weights learns to look past them only slowly.
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
    ):
        super().__init__()
        self.normalize = normalize
        self.queries = nn.Parameter(torch.randn(taps, queries, encoder_dim) * 0.02)
        self.layer_weights = nn.Parameter(torch.zeros(taps, queries))
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=encoder_dim,
                encoder_hidden_size=encoder_dim,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * encoder_dim,
                cross_attention_frequency=1,
                # The loss must not depend on how a batch is dealt to ranks, so nothing random happens in the forward.
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.norm = nn.LayerNorm(encoder_dim)
        self.project = nn.Linear(encoder_dim, llm_dim)

    def forward(self, states: AudioStates) -> Tensor:
        """Connector outputs [A, K, H] for the states [A, taps, frames, D] of A audios."""
        audios, taps, frames, dim = states.hidden.shape
        dtype = self.queries.dtype
        queries = self.queries.expand(audios, -1, -1, -1).flatten(0, 1)
        hidden = F.layer_norm(states.hidden, (dim,)) if self.normalize else states.hidden
        memory = hidden.reshape(audios * taps, frames, dim).to(dtype)
        read = self.qformer(query_embeds=queries, encoder_hidden_states=memory).last_hidden_state
        mix = self.layer_weights.softmax(0)
        mixed = (read.unflatten(0, (audios, taps)) * mix[None, :, :, None]).sum(1)
        return self.project(self.norm(mixed.to(dtype)))

"""A batch for the causal LM: embeddings instead of tokens."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """A batch of embeddings for the causal LM.

    `inputs_embeds` [B, S, H]; `attention_mask`, `position_ids` int64 [B, S]; `answer_rows` int64 [N], flat indices
    b * S + t of the positions that predict an answer token. A batch `after` a prefix of P positions has an
    `attention_mask` [B, P + S].
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    answer_rows: Tensor

    def first(self, length: int) -> "Embedded":
        """Return the first sample's first positions, none of which predicts an answer token."""
        embeds, mask, places = self.inputs_embeds, self.attention_mask, self.position_ids
        return Embedded(embeds[:1, :length], mask[:1, :length], places[:1, :length], self.answer_rows[:0])

    def after(self, length: int) -> "Embedded":
        """Return the batch without its first positions, for a model that has cached their keys and values."""
        sample = self.answer_rows // self.inputs_embeds.shape[1]
        rows = self.answer_rows - (sample + 1) * length
        return Embedded(self.inputs_embeds[:, length:], self.attention_mask, self.position_ids[:, length:], rows)


def positions(attention_mask: Tensor) -> Tensor:
    """Return position ids int64 [B, S] that count attended tokens; masked ones get 0 or their predecessor's."""
    return (attention_mask.cumsum(-1) - 1).clamp_min(0)

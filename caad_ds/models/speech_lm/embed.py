"""Embed a batch for a speech model's LLM, with audio merged in."""

from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.models.whisper_qformer.embedded_batch import Embedded, positions
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError


def merge_audio(model: SpeechLM, batch: Batch, audio: Tensor) -> Embedded:
    """Embed the batch with connector outputs `audio` [A, K, H] at its audio positions.

    Raises:
        UserError: the outputs do not fit the positions or the LLM's embeddings.
    """
    try:
        mixed = model.merge_audio(batch.input_ids, batch.audio_mask, audio)
    except ValueError as error:
        raise UserError(f"batch of {batch.keys[0]}, ...: {error}") from error
    return Embedded(mixed, batch.attention_mask, positions(batch.attention_mask), batch.answer_rows)

"""No audio: its span is removed from the prompt."""

from collections.abc import Sequence

from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.negatives import Partners
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError


def negative(batch: Batch, samples: Sequence[Sample], reader: Reader, partners: Partners | None) -> Batch:
    """Return the batch without its audio; UserError if nothing is left before an answer."""
    removed = batch.without_audio()
    if len(removed.answer_rows) != len(batch.answer_rows):
        raise UserError(
            f"batch of {batch.keys[0]}, ...: without its audio nothing comes before an answer; "
            "choose another negative than text_only, or write a prompt"
        )
    return removed

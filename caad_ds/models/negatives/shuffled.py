"""Another sample's audio: the same partner in every batch and epoch."""

from collections.abc import Sequence

from caad_ds.data.batch import Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.negatives import Partners
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError


def negative(batch: Batch, samples: Sequence[Sample], reader: Reader, partners: Partners | None) -> Batch:
    """Replace each audio by its partner's."""
    if partners is None:
        raise UserError("negative shuffled: there are no other samples to take audio from; choose another negative")
    waveforms = [partners(sample, n) for sample in samples for n in range(len(sample.record["audios"]))]
    reader.check_audio(waveforms, "a partner of negative shuffled: ")
    return reader.replaced(batch, waveforms)

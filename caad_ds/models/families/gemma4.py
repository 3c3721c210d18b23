"""Gemma 4 (E2B, E4B): a conformer over variable lengths with a mask, a linear projector, Gemma with a tied head."""

from functools import partial

from transformers import PreTrainedModel

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.audio_spans import ContentParts
from caad_ds.utils.errors import UserError

FAMILY = Family(
    model_type="gemma4",
    model="Gemma4ForConditionalGeneration",
    tower="audio_tower",
    connector="embed_audio",
    longest_seconds=lambda processor: 30.0,  # its extractor's default, which silently truncates
    shortest_seconds=0.02,  # one frame: shorter audio has none, and the prompt would have no audio
    packages=("torchvision",),
)


class Gemma4Reader(ProcessorReader):
    """Puts audio between its begin and end tokens."""

    def spans(self) -> ContentParts:
        """Return spans as its processor writes them."""
        return ContentParts(self._mark, self.processor.boa_token, self.processor.eoa_token)


class Gemma4LM(transformers_lm.TransformersLM):
    """A model whose layers cannot be cut: they share one table, and late ones read keys of earlier ones."""

    reads = Gemma4Reader

    def __init__(self, family: Family, model: PreTrainedModel, reader: ProcessorReader):
        if model.config.audio_config is None:
            name = model.name_or_path or "the architecture"
            raise UserError(f"{name}: a gemma4 without an audio tower takes no audio; use one with it (E2B, E4B)")
        super().__init__(family, model, reader)

    def keep_first_layers(self, layers: int) -> None:
        """Raise UserError."""
        raise UserError(
            "student.keep_layers: the layers of a gemma4 share keys and one table of embeddings, so that they cannot "
            "be cut; take a smaller model as student.path"
        )


load = partial(transformers_lm.load, FAMILY, lm=Gemma4LM)
build = partial(transformers_lm.build, FAMILY, lm=Gemma4LM)

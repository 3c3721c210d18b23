"""An audio LM in this process that answers from the audio: the anchor in an ablation of the CAAD paper."""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.data.audio.decode import AudioError
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.record import PromptRecord, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.progress import progress, waiting
from data_prep.common.audio_entry import waveform
from data_prep.stage1.engines import Answer, Engine, PreparedEngine
from data_prep.stage1.engines.engine_options import EngineOptions
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.local import WINDOW, LocalEngine, Prompt, chosen_dtype, default_dtype


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the model of a folder or hub id; the settings hold its hash, since training may overwrite it."""
    options.refuse_switches("speech")
    generation, batch_size = options.generation, options.batch_size
    folder = model_folder(options.needed_model("speech", "folder or hub id of an audio LM"))
    with waiting(f"hashing {folder}"):
        from caad_ds.models.model_hashes import model_hash  # it imports PyTorch

        model = model_hash(folder)
    dtype = chosen_dtype(options.dtype, options.device)

    def load() -> Engine:
        with progress(f"loading {folder}"):
            return SpeechEngine(folder, generation, batch_size=batch_size, device=options.device, dtype=dtype)

    settings = {"model_sha256": model, **generation.content(system=None), "dtype": dtype, "batch_size": batch_size}
    return PreparedEngine(settings, load, WINDOW * batch_size)


class SpeechEngine(LocalEngine):
    """Answers each record's own messages, hints included, from the audio; the seed description is not used.

    `folder` is a model's folder or hub id, such as the teacher's. Audio that does not decode or exceeds the window
    rejects its record; audio shared by records of a batch is encoded once. Sampled tokens depend on (seed, id, step)
    alone.
    """

    def __init__(
        self,
        folder: Path,
        generation: GenerationSettings | None = None,
        *,
        batch_size: int = 8,
        device: str = "",
        dtype: str = "",
    ):
        from caad_ds.generation.model import Model
        from caad_ds.models.prompts.answer_turn import end_tokens
        from caad_ds.utils.device import pick_device

        self.loaded = Model.load(folder, pick_device(device), dtype or default_dtype(device))
        self.generation, self.batch_size = generation or GenerationSettings(), batch_size
        self.prompt_encoder = self.loaded.reader.prompts
        self.ends = end_tokens(self.tokenizer, self.loaded.lm.stops)
        self.positions = self.loaded.lm.position_limit

    def _prompt_record(self, record: Record) -> PromptRecord:
        return {"id": record["id"], "messages": self.generation.spoken(record), "audios": record["audios"]}

    def _ids(self, prompt_record: PromptRecord) -> list[int]:
        positions = self.loaded.reader.positions(Sample(prompt_record["id"], prompt_record, []))
        return self.prompt_encoder.encode(prompt_record, with_answer=False, positions=positions).prompt

    def _generate(self, prompts: list[Prompt]) -> Iterator[Answer]:
        samples = []
        for record, _ in prompts:
            try:
                samples.append(self._sample(record))
            except (AudioError, UserError) as error:
                yield Answer(record["id"], reason=f"audio: {error}")
        if samples:
            yield from self._generate_batch(samples)

    def _sample(self, record: Record) -> Sample:
        waveforms = []
        for entry in record["audios"]:
            waveforms.append(waveform(entry))
            self.loaded.reader.check_audio(waveforms[-1:], f"{entry['path']}: ")
        return Sample(record["id"], self._prompt_record(record), waveforms)

    def _generate_batch(self, samples: list[Sample]) -> Iterator[Answer]:
        from caad_ds.generation.decoding import generate

        lm = self.loaded.lm
        batch = lm.reader.collate(samples, pad="left", with_answer=False).to(self.loaded.device)
        most = self.generation.max_new_tokens
        tokens = generate(lm, lm.prepare(batch), max_new_tokens=most, sampling=self.generation.sampling())
        for sample, ids in zip(samples, tokens.tolist(), strict=True):
            yield self._answer(sample.key, ids)

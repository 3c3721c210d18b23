"""What evaluation asks of a model folder: the model on a device, items as samples, clips as encoder states."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caad_ds.data.audio import decode
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.audio.levels import faults, longer
from caad_ds.data.batch import Batch
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.commands.arguments import DTYPES
from caad_ds.models.language_model.llm import position_limit
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.speech_lm.folder import load
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}


@dataclass(frozen=True)
class Loaded:
    """A model with all that belongs to it, on one device, in inference mode."""

    model: SpeechLM
    encoder: SpeechEncoder
    tokenizer: Any
    prompter: PromptEncoder
    device: torch.device

    @staticmethod
    def load(folder: Path, device: torch.device, dtype: str = "float32") -> "Loaded":
        """The model of a folder; the encoder stays in float32."""
        model, encoder, tokenizer = load(folder, TORCH_DTYPES[dtype])
        model.eval()
        for module in (model, encoder):
            torch.nn.Module.to(module, device)
        limit = position_limit(model.llm.config)
        return Loaded(
            model, encoder, tokenizer, PromptEncoder(tokenizer, model.config.num_queries, limit=limit), device
        )

    def askable(self, items: Iterable[Item], room: int, refused: dict[str, str]) -> list[Item]:
        """The items whose prompts can be written and leave `room` tokens for an answer.

        The reason why another item cannot be asked is put into `refused`, by its id.
        """
        kept = []
        for item in items:
            try:
                self.prompter.check(as_sample(item), with_answer=False, room=room)
                kept.append(item)
            except UserError as error:
                refused.setdefault(item.id, f"prompt: {error}")
        return kept

    def prompts(self, items: Sequence[Item]) -> Batch:
        """The left-padded prompts of items."""
        samples = [as_sample(item) for item in items]
        return self._placed(self.prompter.batch(samples, pad="left", with_answer=False), items)

    def answered(self, items: Sequence[Item], answers: Sequence[str]) -> Batch:
        """Each item's prompt with a given answer after it."""
        samples = [as_sample(item, answer) for item, answer in zip(items, answers, strict=True)]
        return self._placed(self.prompter.batch(samples), items)

    def _placed(self, batch: Batch, items: Sequence[Item]) -> Batch:
        """The batch with the index of each clip among the different ones, in the order of `Clips.states`."""
        number = {clip: place for place, clip in enumerate(different_clips(items))}
        index = torch.tensor([number[clip] for item in items for clip in item.clips])
        return replace(batch, audio_index=index).to(self.device)


class Clips:
    """Encoder states of clips; a clip that consecutive batches share is encoded once.

    `failed` maps the clips that cannot be heard to the reason, `doubtful` those that are heard although a rule finds
    them unusable (levels.py): a silent clip may be meant.
    """

    def __init__(self, encoder: SpeechEncoder):
        self.encoder = encoder
        self.failed: dict[Clip, str] = {}
        self.doubtful: dict[Clip, str] = {}
        self._kept: dict[Clip, torch.Tensor] = {}

    def hear(self, items: Sequence[Item]) -> list[Item]:
        """Encodes the clips of a batch and returns the items whose clips could all be heard."""
        clips = different_clips(items)
        waveforms = {}
        for clip in clips:
            if clip not in self._kept and clip not in self.failed:
                try:
                    waveforms[clip] = self._load(clip)
                except decode.AudioError as error:
                    self.failed[clip] = str(error)
        self._kept = {clip: states for clip, states in self._kept.items() if clip in clips}
        if waveforms:
            hidden = self.encoder.encode(self.encoder.features(list(waveforms.values()))).hidden
            self._kept.update(zip(waveforms, hidden, strict=True))
        return [item for item in items if self.failed.keys().isdisjoint(item.clips)]

    def states(self, items: Sequence[Item]) -> AudioStates:
        """The states of the different clips of items that `hear` returned, in order of appearance."""
        return AudioStates(torch.stack([self._kept[clip] for clip in different_clips(items)]))

    def rejected(self, items: Iterable[Item]) -> list[dict]:
        """The items, each once whatever its conditions, with a clip that could not be heard, and the reason."""
        unheard = {item.id: clip for item in items for clip in item.clips if clip in self.failed}
        return [{"id": name, "reason": f"audio {clip}: {self.failed[clip]}"} for name, clip in unheard.items()]

    def doubted(self, items: Iterable[Item]) -> list[dict]:
        """The items, each once, that are asked about a clip which a rule finds unusable, and the reason."""
        heard = {item.id: clip for item in items for clip in item.clips if clip in self.doubtful}
        return [{"id": name, "reason": f"audio {clip}: {self.doubtful[clip]}"} for name, clip in heard.items()]

    def _load(self, clip: Clip) -> np.ndarray:
        waveform, levels = clip.measured()
        seconds, window = len(waveform) / decode.SAMPLE_RATE, self.encoder.window_seconds
        if longer(seconds, window):
            raise decode.AudioError(f"its {seconds:.1f} s exceed the encoder's window of {window} s")
        if found := faults(levels):
            self.doubtful[clip] = "; ".join(f"{rule}: {reason}" for rule, reason in found)
        return waveform


def as_sample(item: Item, answer: str | None = None) -> Sample:
    """A benchmark item as the models take it; its audio is given apart, as states."""
    key = f"{item.id}:{item.condition}"
    record = {
        "id": key,
        "audios": [{"path": str(clip), "text": clip.text} for clip in item.clips],
        "messages": list(item.messages),
        "response": answer,
    }
    return Sample(key, record, [])


def different_clips(items: Iterable[Item]) -> list[Clip]:
    """The clips of items, each once, in order of appearance."""
    return list(dict.fromkeys(clip for item in items for clip in item.clips))

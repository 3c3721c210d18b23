"""A prompt of a caller's own, prepared, and its answer."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from threading import Lock

from transformers.generation.streamers import BaseStreamer

from caad_ds.data.batch import Batch
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.generation.question import Question, as_sample
from caad_ds.generation.sampling import Sampling
from caad_ds.generation.streaming import streamed
from caad_ds.models.audio_lm import AudioLM
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Prompted:
    """A prepared prompt and how it is answered; `turn` lets one answer of a model be written at a time."""

    lm: AudioLM
    turn: Lock
    batch: Batch
    max_new_tokens: int
    contrasted: Contrast | None
    negative: Batch | None
    sampling: Sampling | None

    def answer(self, streamer: BaseStreamer | None = None) -> str:
        """The answer without special tokens."""
        with self.turn:  # `generate` changes settings of the model while it runs
            [said] = decode(
                self.lm, self.batch, max_new_tokens=self.max_new_tokens, contrasted=self.contrasted,
                negative=self.negative, sampling=self.sampling, streamer=streamer,
            )  # fmt: skip
        return said

    def stream(self) -> Generator[str, None, None]:
        """The same in pieces; see `streamed`."""
        return streamed(self.answer, self.lm.reader.tokenizer)


def prompted(lm: AudioLM, turn: Lock, clips: Clips, asked: Question, decoding: Decoding) -> Prompted:
    """Prepare a question; clips that the last question of `clips` had are not encoded again.

    UserError where an audio cannot be heard or the texts make no prompt, or there is nothing to contrast.
    """
    contrasted = Contrast.of(decoding)
    if contrasted is not None and not asked.clips:
        raise UserError(f"contrast_alpha {contrasted.alpha}: there is no audio to contrast with; leave it out")
    with turn:
        lm.reader.check(as_sample(asked), with_answer=False, room=decoding.max_new_tokens)
        if not clips.hear([asked]):
            unheard = next(clip for clip in asked.clips if clip in clips.failed)
            raise UserError(f"audio {unheard}: {clips.failed[unheard]}")
        batch = clips.prompts([asked])
        negative = None if contrasted is None else clips.negative([asked], batch, contrasted.negative)
    # What is drawn depends on the question, not on how its audio was given.
    batch = replace(batch, keys=[asked.question])
    return Prompted(lm, turn, batch, decoding.max_new_tokens, contrasted, negative, Sampling.of(decoding))

"""Prepare a caller's question and answer it."""

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
class PreparedPrompt:
    """A prepared prompt and its decoding settings; `lock` serialises the answers of a model."""

    lm: AudioLM
    lock: Lock
    batch: Batch
    max_new_tokens: int
    contrasted: Contrast | None
    negative: Batch | None
    sampling: Sampling | None

    def answer(self, streamer: BaseStreamer | None = None) -> str:
        """Return the answer without special tokens."""
        with self.lock:  # `generate` changes settings of the model while it runs
            [text] = decode(
                self.lm, self.batch, max_new_tokens=self.max_new_tokens, contrasted=self.contrasted,
                negative=self.negative, sampling=self.sampling, streamer=streamer,
            )  # fmt: skip
        return text

    def stream(self) -> Generator[str, None, None]:
        """Yield the answer in pieces; see `streamed`."""
        return streamed(self.answer, self.lm.reader.tokenizer)


def prepare_prompt(lm: AudioLM, lock: Lock, clips: Clips, question: Question, decoding: Decoding) -> PreparedPrompt:
    """Prepare a question; clips shared with the previous question of `clips` are not encoded again.

    Raises UserError if an audio cannot be decoded, the texts make no prompt, or there is no audio to contrast with.
    """
    contrasted = Contrast.of(decoding)
    if contrasted is not None and not question.clips:
        raise UserError(f"contrast_alpha {contrasted.alpha}: there is no audio to contrast with; leave it out")
    with lock:
        lm.reader.check(as_sample(question), with_answer=False, room=decoding.max_new_tokens)
        if not clips.encode([question]):
            failed = next(clip for clip in question.clips if clip in clips.failed)
            raise UserError(f"audio {failed}: {clips.failed[failed]}")
        batch = clips.prompts([question])
        negative = None if contrasted is None else clips.negative([question], batch, contrasted.negative)
    # The sampled tokens depend on the question, not on the form in which its audio was passed.
    batch = replace(batch, keys=[question.question])
    return PreparedPrompt(lm, lock, batch, decoding.max_new_tokens, contrasted, negative, Sampling.of(decoding))

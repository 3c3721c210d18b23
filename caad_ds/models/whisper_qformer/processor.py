"""The transformers processor: from chats and waveforms to the model's inputs, and from its tokens to text."""

import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin
from transformers.audio_utils import make_list_of_audio

from .chat_parts import with_audio_parts
from .prompt_ids import WHOLE, prompt_ids, spread
from .rates import check_window


class SpeechInputs(BatchFeature):
    """Inputs of the model; features stay in float32, like the encoder, when the others are cast."""

    def to(self, *args: Any, **kwargs: Any) -> "SpeechInputs":
        """Move all inputs to a device, and cast all except features."""
        features = self.data.get("input_features")
        super().to(*args, **kwargs)
        if features is not None:
            self.data["input_features"] = features.to(self.data["input_features"].device)
        return self


class CaadSpeechLMProcessor(ProcessorMixin):
    """A tokenizer and a Whisper feature extractor, with the prompts of a `SpeechLM`.

    In a chat an audio is a part `{"type": "audio", "audio": FILE_OR_SAMPLES, "text": TRANSCRIPTION}`; the transcription
    may be left out, and is ignored by a model whose prompts have none (`transcripts`). All audio of a turn precedes its
    text, and several texts are joined by line breaks (`with_audio_parts`). In a text, `audio_token` marks an audio; it
    is added to the tokenizer if missing. `form` is how a prompt is tokenised.
    """

    auto_map: dict[str, str]  # of a saved processor

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        num_queries: int,
        audio_token: str,
        audio_bos_token: str,
        audio_eos_token: str,
        transcripts: bool = True,
        form: str = WHOLE,
        chat_template: str | None = None,
    ):
        self._own = deepcopy(tokenizer)
        tokenizer.add_tokens([audio_token], special_tokens=True)
        self.num_queries = num_queries
        self.audio_token = audio_token
        self.audio_bos_token = audio_bos_token
        self.audio_eos_token = audio_eos_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.transcripts = transcripts
        self.form = form
        template = chat_template if isinstance(chat_template, str) else tokenizer.get_chat_template()
        template = with_audio_parts(template, audio_bos_token, audio_token, audio_eos_token, transcripts)
        super().__init__(feature_extractor, tokenizer, chat_template=template)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        return_tensors: str | None = None,
        padding: bool | str = True,
        padding_side: str = "left",
        sampling_rate: int | None = None,
        add_special_tokens: bool = False,
    ) -> SpeechInputs:
        """Return `input_ids` and `attention_mask` [B, S] of prompts, and `input_features` [A, mel, frames] of audios.

        Args:
            images: none.
            text: B prompts from the chat template, or one.
            videos: none.
            audio: waveforms, mono at 16 kHz, or files, of all prompts in order of appearance; or one.
            return_tensors: "pt" for tensors.
            padding: to the longest prompt, or not at all (False).
            padding_side: "left", for generation, or "right".
            sampling_rate: of the waveforms; it must be the encoder's.
            add_special_tokens: ignored: the chat template writes them.

        Raises:
            ValueError: an audio is longer than the encoder's window, or their number differs from the prompts' marks.
        """
        if images is not None or videos is not None or text is None:
            raise ValueError("give text, and audio if the text marks some; there are no images or videos")
        texts = [text] if isinstance(text, str) else list(text)
        marked = sum(prompt.count(self.audio_token) for prompt in texts)
        waveforms = [] if audio is None else self._waveforms(audio, sampling_rate)
        if marked != len(waveforms):
            raise ValueError(f"{marked} {self.audio_token} in the text but {len(waveforms)} audios; make them equal")
        rows = [
            spread(
                prompt_ids(self.tokenizer, prompt, self.audio_token, self.form), self.audio_token_id, self.num_queries
            )
            for prompt in texts
        ]
        data: dict[str, Any] = self._padded(rows, padding, padding_side)
        if waveforms:
            rate = self.feature_extractor.sampling_rate
            data["input_features"] = self.feature_extractor(waveforms, sampling_rate=rate)["input_features"]
        return SpeechInputs(data, tensor_type=return_tensors)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Do as any processor; warn of transcriptions that the model's prompts do not contain."""
        if not self.transcripts and any(part.get("text") for part in _audio_parts(conversation)):
            warnings.warn("text: this model's prompt holds no transcription; it is not used", stacklevel=2)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save as any processor; the tokenizer is written without the token and the template added here."""
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self._own.save_pretrained(save_directory)
        return files

    @property
    def model_input_names(self) -> list[str]:
        """The names of the model's inputs."""
        return ["input_ids", "attention_mask", "input_features"]

    def _waveforms(self, audio: Any, sampling_rate: int | None) -> list[Any]:
        rate = self.feature_extractor.sampling_rate
        if sampling_rate not in (None, rate):
            raise ValueError(f"audio at {sampling_rate} Hz; give it at {rate} Hz")
        waveforms = [_samples(clip) for clip in make_list_of_audio(self.feature_extractor.fetch_audio(audio))]
        check_window([len(waveform) for waveform in waveforms], self.feature_extractor.chunk_length)
        return waveforms

    def _padded(self, rows: list[list[int]], padding: bool | str, side: str) -> dict[str, list[list[int]]]:
        if padding not in (True, False, "longest") or side not in ("left", "right"):
            raise ValueError(f"padding {padding!r} on the side {side!r}; give True or False, and left or right")
        length = max(map(len, rows))
        filler = self.tokenizer.eos_token_id  # never attended to
        gaps = [length - len(row) if padding else 0 for row in rows]

        def beside(row: list[int], gap: list[int]) -> list[int]:
            return gap + row if side == "left" else row + gap

        return {
            "input_ids": [beside(row, [filler] * gap) for row, gap in zip(rows, gaps, strict=True)],
            "attention_mask": [beside([1] * len(row), [0] * gap) for row, gap in zip(rows, gaps, strict=True)],
        }


def _samples(audio: Any) -> np.ndarray:
    """Convert floats or signed integers to float32 samples of full scale 1; ValueError if they are not mono audio."""
    samples = np.asarray(audio)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"an audio of shape {samples.shape}; give mono samples, one after another")
    if samples.dtype.kind not in "fi" or samples.dtype == np.int64:  # of unknown full scale
        raise ValueError(f"an audio of {samples.dtype}; give floats of full scale 1, or integers of 16 or 32 bits")
    full = 1.0 if samples.dtype.kind == "f" else -float(np.iinfo(samples.dtype).min)
    scaled = (samples / full).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise ValueError("an audio has samples that are not finite; give others")
    return scaled


def _audio_parts(conversation: Any) -> Iterable[dict]:
    """Yield the audio parts of a chat, or of several."""
    for message in conversation:
        if not isinstance(message, dict):
            yield from _audio_parts(message)
        elif not isinstance(message.get("content"), str):
            yield from (part for part in message.get("content") or [] if part.get("type") == "audio")

"""Turn a request into model input: its messages, its clips as samples, its decoding settings."""

import base64
import binascii
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.usable_audio import Levels
from caad_ds.data.audio_markers import user_content
from caad_ds.generation.clips import doubt, length_fault
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.generation.question import as_sample
from caad_ds.models.prompts.control_tokens import check_texts
from caad_ds.models.reader import NO_TRANSCRIPT, Reader
from caad_ds.serving.server.chat_request import AudioPart, ChatRequest, InputAudio, Message, TextPart
from caad_ds.serving.server.decoded_audio_limit import Share
from caad_ds.serving.server.limits import Limits
from caad_ds.serving.server.refusals import Refused
from caad_ds.utils.errors import AudioError, UserError


@dataclass(frozen=True, eq=False)
class DecodedClip:
    """A clip of a request, decoded."""

    number: int
    waveform: np.ndarray
    levels: Levels
    text: str = ""

    def __str__(self) -> str:
        return f"clip {self.number}"

    def measured(self) -> tuple[np.ndarray, Levels]:
        """Return the samples and their levels."""
        return self.waveform, self.levels


@dataclass(frozen=True, eq=False)
class Chat:
    """The messages of a request and their clips; `key` and the seed determine a sampled answer."""

    messages: Sequence[dict]
    clips: Sequence[DecodedClip]
    key: str

    @property
    def id(self) -> str:
        """Return its name in error messages."""
        return "request"


@dataclass(frozen=True)
class Prepared:
    """A request that has been checked and decoded; `warnings` list its doubtful clips and texts."""

    chat: Chat
    prompt_tokens: int
    decoding: Decoding
    warnings: Sequence[str]


def prepare(request: ChatRequest, reader: Reader, limits: Limits, share: Share) -> Prepared:
    """Decode and check a request for the model of a reader; Refused if the model or the limits do not permit it."""
    decoding = decoding_of(request, limits)
    turns = [_turn(number, message) for number, message in enumerate(request.messages)]
    if request.messages[-1].role != "user":
        raise Refused(400, "messages: the last one is not the user's; put the question there", "messages")
    audios = [audio for _, given in turns for audio in given]
    _check_number(audios, reader, limits)
    if request.caad_alpha is not None and not audios:
        raise Refused(400, "caad_alpha: there is no audio to contrast with; leave it out", "caad_alpha")
    texts = _transcripts(request, reader, len(audios))
    clips = [
        _decode(number, audio, text, reader, share)
        for number, (audio, text) in enumerate(zip(audios, texts, strict=True), 1)
    ]
    messages = [
        {"role": message.role, "content": user_content(text, None, len(own))}
        for message, (text, own) in zip(request.messages, turns, strict=True)
    ]
    # For a single turn it is the question, as in `Model.answer`, so that both draw the same answer.
    key = turns[0][0] if len(turns) == 1 else json.dumps(messages, ensure_ascii=False)
    chat = Chat(messages, clips, key)
    length = _check_prompt(chat, reader, decoding.max_new_tokens)
    doubtful = [(str(clip), doubt(clip.levels)) for clip in clips]
    doubtful.append(("messages", reader.prompts.doubt(as_sample(chat).record)))
    return Prepared(chat, length, decoding, [f"{where}: {reason}" for where, reason in doubtful if reason])


def decoding_of(request: ChatRequest, limits: Limits) -> Decoding:
    """Return the decoding settings: greedy, unless there is a temperature above 0."""
    length = request.max_completion_tokens or request.max_tokens or limits.new_tokens
    if length > limits.most_new_tokens:
        raise Refused(
            400, f"max_tokens: {length} are more than the {limits.most_new_tokens} of this server", "max_tokens"
        )
    drawn = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k, "seed": request.seed}
    return Decoding(
        max_new_tokens=length,
        contrast_alpha=request.caad_alpha,
        negative=request.caad_negative or Decoding.negative,
        plausibility=request.caad_plausibility,
        alpha_gate=request.caad_alpha_gate or Decoding.alpha_gate,
        gate_m=request.caad_gate_m or Decoding.gate_m,
        **(drawn if request.sampled else {}),  # type: ignore[arg-type]
    )


def _turn(number: int, message: Message) -> tuple[str, list[InputAudio]]:
    """Return the text of a message and its audios, which precede the text in the prompt, as in training."""
    where = f"messages.{number}.content"
    parts = message.parts
    audios = [part.input_audio for part in parts if isinstance(part, AudioPart)]
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    if audios and message.role != "user":
        raise Refused(400, f"{where}: audio in a message of the {message.role}; put it into one of the user", where)
    kinds = [isinstance(part, AudioPart) for part in parts]
    if sum(one != other for one, other in pairwise(kinds)) > 1:
        raise Refused(400, f"{where}: text on both sides of an audio, where it stands before all text; move it", where)
    try:
        check_texts({"text": text}, ())
    except UserError as error:  # checked before the audio markers are added
        raise Refused(400, f"{where}: {error}", where) from None
    if not text.strip():
        raise Refused(400, f"{where}: there is no text; ask something", where)
    return text, audios


def _check_number(audios: Sequence[InputAudio], reader: Reader, limits: Limits) -> None:
    most = min(limits.clips, limits.clips if reader.most_audios is None else reader.most_audios)
    if len(audios) > most:
        raise Refused(400, f"messages: {len(audios)} clips, and this model takes {most} here; give fewer", "messages")


def _transcripts(request: ChatRequest, reader: Reader, clips: int) -> Iterable[str]:
    """Return the transcription of each clip, "" if it is not given."""
    given = request.caad_transcripts
    if given is None:
        return [""] * clips
    if len(given) != clips:
        raise Refused(400, f"caad_transcripts: {len(given)} for {clips} clips; give one for each", "caad_transcripts")
    if reader.transcript == NO_TRANSCRIPT:
        raise Refused(400, "caad_transcripts: this model's prompt holds none; leave it out", "caad_transcripts")
    return given


def _decode(number: int, audio: InputAudio, text: str, reader: Reader, share: Share) -> DecodedClip:
    """Decode a clip; Refused (400) if it does not decode, or exceeds what the model takes or the request may have."""
    where = f"clip {number}"
    try:
        data = base64.b64decode(audio.data, validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters that are not ASCII
        raise Refused(400, f"{where}: its data is no base64; give a file's bytes in it", "input_audio.data") from None
    try:
        if not data:
            raise AudioError("it is empty")
        waveform, levels = decode.measured(io.BytesIO(data), longest=min(reader.longest_seconds, share.left))
    except decode.TooLong as error:
        if share.left < reader.longest_seconds:
            raise share.too_much() from None
        raise Refused(400, f"{where}: {error}", "input_audio.data") from None
    except AudioError as error:
        raise Refused(400, f"{where}: {error}", "input_audio.data") from None
    if fault := length_fault(len(waveform), reader):
        raise Refused(400, f"{where}: {fault}", "input_audio.data")
    share.take(len(waveform) / decode.SAMPLE_RATE)
    return DecodedClip(number, waveform, levels, text)


def _check_prompt(chat: Chat, reader: Reader, room: int) -> int:
    """Return the prompt's length in tokens; Refused for texts with control tokens, and if the answer has no room."""
    sample = replace(as_sample(chat), waveforms=[clip.waveform for clip in chat.clips])
    try:
        length = len(reader.check(sample, with_answer=False).prompt)
    except UserError as error:
        reason = str(error).removeprefix(f"sample {chat.key}: ").removeprefix(f"record {chat.key}: ")
        raise Refused(400, f"messages: {reason}"[:500], "messages") from None
    if reader.prompts.limit is not None and length + room > reader.prompts.limit:
        raise Refused(
            400,
            f"max_tokens: a prompt of {length} tokens leaves no room for {room} in the {reader.prompts.limit} that the "
            "model reads; ask for fewer",
            "max_tokens",
        )
    return length

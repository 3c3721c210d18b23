"""Load models, ask them the same questions, and print the answers while they are generated."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from caad_ds.generation.clips import Clips, length_fault
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.generation.model import Model
from caad_ds.generation.question import Question, Recording, as_sample
from caad_ds.models import auto
from caad_ds.models.reader import NO_TRANSCRIPT, Reader
from caad_ds.serving.transcription import transcriptions, whisper_of
from caad_ds.utils.command import note
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError


def ask(
    models: Sequence[Path],
    clips: Sequence[Recording],
    samples: Sequence[int],
    questions: str | Iterator[str | UserError],
    *,
    hint: str | None,
    decoding: Decoding,
    transcribe: str | None,
    device: str | None,
    dtype: str,
) -> int:
    """Print each model's answer to one or several questions about clips; `samples` are their lengths at 16 kHz.

    What can be checked without weights is checked before any are read. `transcribe` names an ASR model, "" is the
    Whisper that the first model's encoder comes from, None no transcription.

    Returns:
        The exit status: 2 where one of several questions could not be answered, which is reported on stderr.

    Raises:
        UserError: a model does not load or does not take the clips, or the only question cannot be answered.
    """
    chosen = pick_device(device)
    readers = {folder: auto.load_reader(folder) for folder in dict.fromkeys(models)}
    for folder, reader in readers.items():
        _check_clips(str(folder), reader, clips, samples)
    _check_texts(readers, "--text" if any(clip.text for clip in clips) else transcribe is not None and "--transcribe")
    if isinstance(questions, str):
        for reader in readers.values():
            reader.check(as_sample(Question(tuple(clips), questions, hint)), with_answer=False)
    if transcribe is not None:
        said = transcriptions(transcribe or whisper_of(models[0]), clips, chosen)
        clips = [replace(clip, text=text) for clip, text in zip(clips, said, strict=True)]
        for clip in clips:
            note(f"transcription of {clip}: {clip.text or '(nothing)'}")
    asked = []
    for folder in models:
        note(f"loading {folder}")
        asked.append(_Asked(str(folder), Model.load(folder, chosen, dtype), tuple(clips), hint, decoding))
    if isinstance(questions, str):
        _answer(asked, questions)
        return 0
    return _answer_each(asked, questions)


class _Asked:
    """A model and the clips that it answers about; they are encoded once."""

    def __init__(self, name: str, model: Model, clips: tuple[Recording, ...], hint: str | None, decoding: Decoding):
        self.name, self.model, self.recordings, self.hint, self.decoding = name, model, clips, hint, decoding
        self.clips: Clips = model.clips()

    def print_answer(self, question: str, named: bool) -> None:
        """Print the answer while it is generated; with several models, also the model's name and the seconds."""
        began = time.perf_counter()
        known = set(self.clips.doubtful)
        asked = Question(self.recordings, question, self.hint)
        prompt = self.model.prepare_prompt(self.clips, asked, self.decoding)
        for clip in self.clips.doubtful.keys() - known:
            note(f"audio {clip}: {self.clips.doubtful[clip]}; asking about it nevertheless")
        if doubt := self.model.reader.prompts.doubt(as_sample(asked).record):
            note(f"{self.name}, prompt: {doubt}" if named else f"prompt: {doubt}")
        print(f"{self.name}: " if named else "", end="", flush=True)
        try:
            with closing(prompt.stream()) as pieces:
                for piece in pieces:
                    print(piece, end="", flush=True)
        except BaseException:
            print(flush=True)
            raise
        print(f"  ({time.perf_counter() - began:.2f} s)" if named else "", flush=True)


def _answer(asked: Sequence[_Asked], question: str) -> None:
    for each in asked:
        each.print_answer(question, named=len(asked) > 1)


def _answer_each(asked: Sequence[_Asked], questions: Iterator[str | UserError]) -> int:
    """Answer every question that can be answered; return 2 if some could not, else 0."""
    status = 0
    if sys.stdin.isatty():
        note("ask a question a line; Ctrl-D ends")
    for number, question in enumerate(questions, 1):
        try:
            if isinstance(question, UserError):
                raise question
            if not question.strip():
                raise UserError("it is empty; give a text")
            _answer(asked, question)
        except UserError as error:
            note(f"error: question {number}: {error}")
            status = 2
    return status


def _check_clips(name: str, reader: Reader, clips: Sequence[Recording], samples: Sequence[int]) -> None:
    """Raise UserError if a model does not accept the number or the length of the clips."""
    if reader.most_audios is not None and len(clips) > reader.most_audios:
        raise UserError(
            f"{name}: a {reader.family} model takes {reader.most_audios} clips, not {len(clips)}; give fewer"
        )
    for clip, length in zip(clips, samples, strict=True):
        if fault := length_fault(length, reader):
            raise UserError(f"audio {clip}: {fault}; cut it, or ask another model than {name}")


def _check_texts(readers: dict[Path, Reader], option: str | bool) -> None:
    """Raise UserError if no model's prompt contains transcriptions; name on stderr the models whose prompt does not."""
    without = [str(folder) for folder, reader in readers.items() if reader.transcript == NO_TRANSCRIPT]
    if option and len(without) == len(readers):
        raise UserError(f"{option}: the prompt of {' and '.join(without)} holds no transcription; leave it out")
    if option and without:
        note(f"the prompt of {without[0]} holds no transcription")

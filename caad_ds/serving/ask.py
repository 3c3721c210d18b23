"""`caad-ds ask`: answer questions about a recording."""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields

from caad_ds.generation.arguments import MODEL, add_decoding, add_device_arguments
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.generation.question import Recording, recordings
from caad_ds.utils.command import note
from caad_ds.utils.errors import AudioError, UserError
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.paths import existing
from caad_ds.utils.text import TextError, decode_line

STDIN = "-"
ENCODERS_OWN = ""  # value of --transcribe without a model
MAX_NEW_TOKENS = 128
NEGATIVE = Decoding.negative


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ask`."""
    parser.add_argument("model", type=model_folder, metavar="MODEL", help=MODEL)
    parser.add_argument(
        "audio", type=existing, nargs="+", metavar="AUDIO", help="audio file; several are clips of one prompt"
    )
    parser.add_argument(
        "question", metavar="QUESTION", help="text, or - for questions from standard input, one a line, an answer each"
    )
    parser.add_argument(
        "--text", action="append", metavar="TEXT", help="transcription of the audio; of several clips once for each"
    )
    parser.add_argument(
        "--transcribe",
        nargs="?",
        const=ENCODERS_OWN,
        metavar="ASR",
        help="transcribe the audio by an ASR model of transformers, a folder or hub id (default: the Whisper that the "
        "model's encoder comes from); put it after QUESTION",
    )
    parser.add_argument("--hint", metavar="TEXT", help="statement before the question")
    parser.add_argument("--vs", type=model_folder, metavar="MODEL", help="second model, which answers as well")
    add_decoding(parser, MAX_NEW_TOKENS)
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the arguments and answer; returns 2 if a question from standard input could not be answered, else 0."""
    decoding = Decoding(**{option.name: getattr(args, option.name) for option in fields(Decoding)})
    _check_negative(decoding)
    clips = _clips(args)
    samples = [_samples(clip) for clip in clips]
    if args.question != STDIN and not args.question.strip():
        raise UserError("QUESTION: it is empty; ask something, or give - to read questions from standard input")
    if args.question == STDIN and sys.stdin is None:
        raise UserError("QUESTION -: there is no standard input; give a question")
    note("loading PyTorch and transformers")
    return importlib.import_module("caad_ds.serving.printed_answers").ask(
        [args.model] if args.vs is None else [args.model, args.vs],
        clips,
        samples,
        _lines() if args.question == STDIN else args.question,
        hint=args.hint, decoding=decoding, transcribe=args.transcribe, device=args.device, dtype=args.dtype,
    )  # fmt: skip


def _check_negative(decoding: Decoding) -> None:
    if decoding.negative == "shuffled":
        raise UserError("--negative shuffled: it takes the audio of other items, and here are none; choose another")
    if decoding.contrast_alpha is None and decoding.negative != NEGATIVE:
        raise UserError(
            f"--negative {decoding.negative}: belongs to contrastive decoding; give --contrast-alpha as well"
        )


def _clips(args: argparse.Namespace) -> Sequence[Recording]:
    """Return the recordings with their given texts."""
    given = args.text or []
    if given and args.transcribe is not None:
        raise UserError("--text, --transcribe: give the transcription or have it made; leave one of them out")
    if given and len(given) != len(args.audio):
        raise UserError(
            f"--text: {len(given)} for {len(args.audio)} clips; give it once for each, '' where there is none"
        )
    return recordings(args.audio, given)


def _samples(clip: Recording) -> int:
    """Return the number of samples of a recording at 16 kHz; UserError if it does not decode."""
    try:
        return len(clip.measured()[0])
    except AudioError as error:
        raise UserError(f"audio {clip}: {error}; give another file") from error


def _lines() -> Iterator[str | UserError]:
    """Yield the lines of standard input; for one that is not text, the error."""
    for line in sys.stdin.buffer:
        try:
            yield decode_line(line)
        except TextError as error:
            yield error

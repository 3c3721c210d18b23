"""A ridge probe per layer of the frozen encoder: `python -m examples.recorded.probe TRAIN.jsonl TEST.jsonl`.

If the model is worse than the probe of some layer, its connector has not learned enough yet. An attribute that no layer
encodes cannot be distilled.
"""

import argparse
import sys
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from caad_ds.data.audio.decode import AudioError
from caad_ds.data.instructions import Instructions
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.command import guarded
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import progress, track
from caad_ds.utils.quiet_libraries import quiet
from caad_ds.utils.text import as_text
from data_prep.common.audio_entry import waveform
from data_prep.common.manifest import load_manifest

ENCODER, TAPS, WINDOW_SECONDS = "openai/whisper-tiny.en", [0, 1, 2, 3], 8
INSTRUCTIONS = Path("configs/recorded/instructions.yaml")
CLIPS = {"train": 480, "test": 120}
RIDGE = 30.0


def main(argv: list[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="examples.recorded.probe", description=__doc__)
    parser.add_argument("manifests", type=Path, nargs=len(CLIPS), metavar="MANIFEST", help="to train on, to test on")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    args = parser.parse_args(argv)
    quiet()
    return guarded(lambda: run(args), args.debug)


def run(args: argparse.Namespace) -> int:
    """Print the probe's accuracy on the test clips, per layer and attribute with two options."""
    attributes = {key: list(a.options) for key, a in Instructions.load(INSTRUCTIONS).attributes.items()}
    manifests = [load_manifest(path) for path in args.manifests]
    with progress(f"loading {ENCODER}"):
        encoder = load_encoder(ENCODER, TAPS, WINDOW_SECONDS)
    sets = []
    for records, count in zip(manifests, CLIPS.values(), strict=True):
        Random(0).shuffle(records)
        sets.append(examples(encoder, records[:count], attributes))
    (train, train_labels), (test, test_labels) = sets
    for tap in TAPS:
        right = (predict(train[:, tap], train_labels, test[:, tap]) > 0) == (test_labels > 0)
        shares = zip(attributes, right.double().mean(0), strict=True)
        print(f"layer {tap}: {', '.join(f'{key} {share:.1%}' for key, share in shares)}")
    return 0


def examples(encoder: SpeechEncoder, records: list[dict], attributes: dict[str, list[str]]) -> tuple[Tensor, Tensor]:
    """Return states averaged over time [clips, taps, D], and labels +-1 [clips, attributes]."""
    states = []
    for record in track(records, "encoding", len(records)):
        try:
            heard = waveform(record["audios"][0])
        except AudioError as error:
            raise UserError(f"record {record['id']}: {error}; ingest the corpus again") from error
        try:
            encoder.check_window([heard])
        except ValueError as error:
            raise UserError(f"record {record['id']}: {error}; ingest the corpus again with --max-seconds") from error
        states.append(encoder.encode(encoder.features([heard])).hidden[0].mean(1))
    labels = [[2.0 * o.index(as_text(r["metadata"][key])) - 1 for key, o in attributes.items()] for r in records]
    return torch.stack(states), torch.tensor(labels)


def predict(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Fit ridge regression on standardised features; returns its values [tests, attributes] for `test`."""
    mean, deviation = train.mean(0), train.std(0)
    x, y = (torch.nn.functional.pad((t - mean) / deviation, (0, 1), value=1.0) for t in (train, test))
    return y @ torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ labels)


if __name__ == "__main__":
    sys.exit(main())

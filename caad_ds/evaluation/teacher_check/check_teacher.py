"""`caad-ds check-teacher`: is a teacher fit for contrastive distillation, before anyone spends GPU days on it?

Each option's statement is scored by its teacher-forced likelihood under z_pos, z_neg and z_c, so the answer is the
option that the distillation target itself prefers. Beside it stand the teacher's greedy answers, without a contrast and
by contrastive decoding with each negative, at the alpha that the verdict recommends (or the highest, if none).
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.evaluation.benchmarks.mcr_bench import CONDITIONS, Benchmark, Row
from caad_ds.evaluation.identity import fingerprint, run_name
from caad_ds.evaluation.report.tables import show_doubtful, show_rejected
from caad_ds.evaluation.scoring.matching import matches
from caad_ds.evaluation.scoring.scores import POOLED, score
from caad_ds.evaluation.teacher_check.check_tables import Growing, listed, show_result
from caad_ds.evaluation.teacher_check.generalisation import Heard, validation_losses
from caad_ds.evaluation.teacher_check.journal import CheckJournal
from caad_ds.evaluation.teacher_check.probe import Probe
from caad_ds.evaluation.teacher_check.signals import Signal
from caad_ds.evaluation.teacher_check.verdict import Attribute, figures, judge
from caad_ds.generation.model import Model
from caad_ds.models.folder_hash import model_hash
from caad_ds.models.negatives import Negative
from caad_ds.utils.command import ROWS_REJECTED
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_json
from caad_ds.utils.progress import progress, waiting


def run(args: argparse.Namespace) -> int:
    """Prints table and verdict; 3 if rows of the benchmark could not be used, else 0."""
    if any(not 0 < alpha < float("inf") for alpha in args.alphas):
        raise UserError(f"--alphas {' '.join(f'{a:g}' for a in args.alphas)}: give finite numbers above 0")
    name = run_name(args.model.resolve())
    device = pick_device(args.device)
    instructions = Instructions.load(args.instructions)
    benchmark = Benchmark.load(args.benchmark, args.limit)
    rows, rejected = _known(benchmark.rows, instructions, args.instructions)
    training = _training(args, benchmark, instructions)
    settings = _settings(args, benchmark, training, instructions) if args.out else {}
    if not args.out:
        print("caad-ds check-teacher: nothing is kept without --out; interrupted, it starts over", file=sys.stderr)
    with CheckJournal(args.out, settings) as journal:
        with progress(f"loading {args.model}"):
            loaded = Model.load(args.model, device, args.dtype)
            negatives = [Negative.of(name, loaded.encoder) for name in dict.fromkeys(args.negatives)]
        alphas = list(dict.fromkeys(args.alphas))
        probe = Probe(loaded, negatives, alphas, instructions, journal, args.batch_size, args.max_new_tokens)
        found = _likelihoods(probe, rows, name)
        rejected = benchmark.rejected + rejected + [{"id": n, "reason": r} for n, r in probe.rejected.items()]
        if not found:
            raise UserError(f"{args.benchmark}: no row could be used ({rejected[0]['reason']}); fix the benchmark")
        heard = _heard(probe, training.rows if training else [])
        with progress("scoring"):
            attributes = _attributes(rows, found, instructions)
            table = {signal: figures(attributes, signal) for signal in probe.signals}
            verdict = judge(attributes, table, heard, validation_losses(args.model))
        alpha = verdict["alpha"] or max(alphas)
        decoded = decoded_figures(probe, [row for row in rows if row.id in found], alpha)
        doubtful = probe.doubtful(rows)
        show_result(name, table, decoded, verdict)
        if args.out:
            result = {
                "model": name,
                "model_sha256": settings["model_sha256"],
                "verdict": verdict,
                "signals": listed(table),
                "decoded": listed(decoded),
                "rejected": rejected,
                "doubtful": doubtful,
            }
            write_json(args.out, result)
            journal.remove()
    show_doubtful(doubtful, args.out)
    show_rejected(rejected, args.out)
    return ROWS_REJECTED if rejected else 0


def _known(rows: list[Row], instructions: Instructions, file: Path) -> tuple[list[Row], list[dict]]:
    """The rows whose right answer is an option of the instruction file, and the others with the reason."""
    known, rejected = [], []
    for row in rows:
        if row.subset not in instructions.attributes:
            have = ", ".join(instructions.attributes)
            raise UserError(f"{file}: has no attribute {row.subset}, a subset of the benchmark (it has {have}); add it")
        if row.gt in instructions.attributes[row.subset].options:
            known.append(row)
        else:
            rejected.append({"id": row.id, "reason": f"gt {row.gt!r} is no option of {row.subset} in {file}"})
    return known, rejected


def _training(args: argparse.Namespace, benchmark: Benchmark, instructions: Instructions) -> Benchmark | None:
    """The benchmark of training clips, of the subsets that the other one has; UserError where a clip is in both."""
    if args.train_benchmark is None:
        return None
    found = Benchmark.load(args.train_benchmark, args.limit)
    rows = [row for row in found.rows if row.subset in benchmark.options]
    rows, _ = _known(rows, instructions, args.instructions)
    if not rows:
        raise UserError(f"{args.train_benchmark}: has no row about {', '.join(benchmark.options)}; give one that has")
    with waiting(f"comparing {args.train_benchmark} with {args.benchmark}"):
        ours, theirs = ({row.clip.sha256() for row in each} - {""} for each in (benchmark.rows, rows))
    if shared := len(ours & theirs):
        raise UserError(
            f"{args.train_benchmark}: has {shared} clips that are in {args.benchmark} too; "
            "that one must be of clips that the teacher was not trained on"
        )
    return Benchmark(rows, found.options, found.rejected)


def _settings(
    args: argparse.Namespace, benchmark: Benchmark, training: Benchmark | None, instructions: Instructions
) -> dict:
    """What decides the figures, for a check that is resumed; batch size and device do not."""
    options = {name: list(attribute.options.items()) for name, attribute in instructions.attributes.items()}
    sha256 = cache(Clip.sha256)
    with waiting(f"hashing {args.model} and {args.benchmark}"):
        return {
            "check": 1,
            "model_sha256": model_hash(args.model),
            "benchmark_sha256": fingerprint(benchmark, sha256),
            "train_benchmark_sha256": fingerprint(training, sha256) if training else None,
            "options_sha256": hashlib.sha256(json.dumps(options).encode()).hexdigest(),
            "negatives": list(dict.fromkeys(args.negatives)),
            "alphas": list(dict.fromkeys(args.alphas)),
            "max_new_tokens": args.max_new_tokens,
            "dtype": args.dtype,
        }


def _likelihoods(probe: Probe, rows: list[Row], name: str) -> dict[str, dict[Signal, np.ndarray]]:
    """What `Probe.likelihoods` finds, shown as it grows."""
    if before := len(probe.known(rows)):
        print(f"caad-ds check-teacher: resuming after {before} rows of {probe.journal.path}", file=sys.stderr)
    growing = Growing(len(rows), lambda: _attributes(rows, probe.known(rows), probe.instructions))
    return probe.likelihoods(rows, f"checking {name}", growing.show)


def _heard(probe: Probe, rows: list[Row]) -> dict[str, Heard]:
    """The neutral answers about training clips, by attribute."""
    if not rows:
        return {}
    settings = probe.journal, probe.batch_size, probe.max_new_tokens
    there = Probe(probe.loaded, (), (), probe.instructions, *settings, part="training", conditions=CONDITIONS[:1])
    found = there.likelihoods(rows, "asking about training clips")
    return {attribute.name: attribute.heard for attribute in _attributes(rows, found, probe.instructions)}


def _attributes(rows: list[Row], found: dict[str, dict], instructions: Instructions) -> list[Attribute]:
    attributes = []
    heard = [row for row in rows if row.id in found]
    for subset in dict.fromkeys(row.subset for row in heard):
        ours = [row for row in heard if row.subset == subset]
        labels = list(instructions.attributes[subset].options)
        gt = np.array([labels.index(row.gt) for row in ours])
        signals = found[ours[0].id]
        attributes.append(Attribute(subset, gt, {s: np.stack([found[row.id][s] for row in ours]) for s in signals}))
    return attributes


def decoded_figures(probe: Probe, rows: Sequence[Row], alpha: float) -> dict[Signal, dict]:
    """Every metric of the greedy answers under z_pos and z_c, per attribute and pooled, by the matching rule."""
    wanted = [Signal(), *(signal for signal in probe.signals if signal.alpha == alpha)]
    found = probe.answers(rows, wanted, "decoding")
    groups = {subset: [row for row in rows if row.subset == subset] for subset in dict.fromkeys(r.subset for r in rows)}
    right = {
        (row.id, signal): [matches(text, row.gt) for text in found[row.id][signal]] for row in rows for signal in wanted
    }
    return {
        signal: {
            name: score(np.array([right[row.id, signal] for row in ours]).T[None])
            for name, ours in {POOLED: rows, **groups}.items()
        }
        for signal in wanted
    }

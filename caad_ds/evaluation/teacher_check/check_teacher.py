"""`caad-ds check-teacher`: is a teacher fit for contrastive distillation, before anyone spends GPU days on it?

Each option's statement is scored by its teacher-forced likelihood under z_pos, z_neg and z_c, so the answer is the
option that the distillation target itself prefers. Beside it stand the teacher's greedy answers, without a contrast and
by contrastive decoding with each negative, at the alpha that the verdict recommends (or the highest, if none).
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from caad_ds.config.objective_section import CHECKED_NEGATIVES, NEGATIVES
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.items import Clip
from caad_ds.evaluation.benchmarks.mcr_bench import CONDITIONS, Benchmark, Row
from caad_ds.evaluation.commands.check_teacher import ALPHAS
from caad_ds.evaluation.identity import fingerprint
from caad_ds.evaluation.scoring.matching import matches
from caad_ds.evaluation.scoring.scores import POOLED, score
from caad_ds.evaluation.teacher_check.check_tables import Growing, listed
from caad_ds.evaluation.teacher_check.generalisation import Heard, validation_losses
from caad_ds.evaluation.teacher_check.journal import CheckJournal
from caad_ds.evaluation.teacher_check.probe import Probe
from caad_ds.evaluation.teacher_check.signals import Signal
from caad_ds.evaluation.teacher_check.verdict import Attribute, figures, judge
from caad_ds.generation.decoding_settings import DTYPES, check_choice, check_counts
from caad_ds.generation.model import Model
from caad_ds.models.folder_hash import model_hash
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_json
from caad_ds.utils.paths import existing, model_folder, new_file, run_name
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.wording import counted


@dataclass(frozen=True)
class TeacherCheck:
    """What a check found: metrics by signal of the likeliest options and of greedy answers, and the verdict on them.

    `rejected` and `doubtful` are `{id, reason}` of rows that could not be used, or are asked about unusable audio.
    """

    name: str
    signals: dict[Signal, dict]
    decoded: dict[Signal, dict]
    verdict: dict
    rejected: list[dict]
    doubtful: list[dict]


def check_teacher(
    model: str | Path,
    benchmark: str | Path,
    instructions: str | Path,
    *,
    train_benchmark: str | Path | None = None,
    negatives: Sequence[str] = CHECKED_NEGATIVES,
    alphas: Sequence[float] = ALPHAS,
    out: str | Path | None = None,
    limit: int | None = None,
    max_new_tokens: int = 16,
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
) -> TeacherCheck:
    """Check whether a teacher is fit for contrastive distillation, as `caad-ds check-teacher` does.

    Args:
        model: folder of a model, or of the run that trained it, or a hub id.
        benchmark: folder in MCR-BENCH's format, of clips that the teacher was not trained on.
        instructions: YAML with the options of each subset and their statements.
        train_benchmark: one of clips that the teacher was trained on: tells overfitting from too little training.
        negatives: inputs of the second path: zero_mel, silence, noise, text_only, shuffled.
        alphas: of the contrasts that are tried.
        out: JSON file of figures and verdict; an interrupted check resumes. None: nothing is kept.
        limit: only the first rows of each subset.
        max_new_tokens: per answer.
        batch_size: items at once.
        device: cpu, cuda, cuda:1, ...; None: cuda if there is one.
        dtype: of the model, float32 or bfloat16.

    Raises:
        UserError: a value out of its range, a path that holds something else, or no row that could be used.
    """
    _check(negatives, alphas, dtype)
    check_counts(limit=limit, batch_size=batch_size, max_new_tokens=max_new_tokens)
    folder, place, file = model_folder(model), existing(benchmark), existing(instructions)
    written = None if out is None else new_file(out)
    alphas, name = list(dict.fromkeys(alphas)), run_name(folder)
    chosen = pick_device(device)
    known = Instructions.load(file)
    tested = Benchmark.load(place, limit)
    rows, rejected = _known(tested.rows, known, file)
    training = None
    if train_benchmark is not None:
        training = _training(existing(train_benchmark), limit, place, tested, known, file)
    settings: dict = {}
    if written:
        with waiting(f"hashing {folder} and {place}"):
            settings = _settings(folder, tested, training, known) | {
                "negatives": list(dict.fromkeys(negatives)),
                "alphas": alphas,
                "max_new_tokens": max_new_tokens,
                "dtype": dtype,
            }
    else:
        print("caad-ds check-teacher: nothing is kept without --out; interrupted, it starts over", file=sys.stderr)
    with CheckJournal(written, settings) as journal:
        with progress(f"loading {folder}"):
            loaded = Model.load(folder, chosen, dtype)
        others = [next(iter(row.items())) for row in tested.rows]
        settings_of = known, journal, batch_size, max_new_tokens
        probe = Probe(loaded, [*dict.fromkeys(negatives)], alphas, *settings_of, others=others)
        found = _likelihoods(probe, rows, name)
        rejected = tested.rejected + rejected + [{"id": n, "reason": r} for n, r in probe.rejected.items()]
        if not found:
            raise UserError(f"{place}: no row could be used ({rejected[0]['reason']}); fix the benchmark")
        heard = _heard(probe, training.rows if training else [])
        with progress("scoring"):
            attributes = _attributes(rows, found, known)
            table = {signal: figures(attributes, signal) for signal in probe.signals}
            verdict = judge(attributes, table, heard, validation_losses(folder))
        alpha = verdict["alpha"] or max(alphas)
        decoded = decoded_figures(probe, [row for row in rows if row.id in found], alpha)
        check = TeacherCheck(name, table, decoded, verdict, rejected, probe.doubtful(rows))
        if written:
            write_json(written, _listed(check, settings["model_sha256"]))
            journal.remove()
    return check


def _check(negatives: Sequence[str], alphas: Sequence[float], dtype: str) -> None:
    if not alphas or any(not 0 < alpha < float("inf") for alpha in alphas):
        raise UserError(f"--alphas {' '.join(f'{a:g}' for a in alphas)}: give finite numbers above 0")
    if not negatives:
        raise UserError(f"--negatives: give one or several of {', '.join(NEGATIVES)}")
    for negative in negatives:
        check_choice("--negatives", negative, NEGATIVES)
    check_choice("--dtype", dtype, DTYPES)


def _listed(check: TeacherCheck, model_sha256: str) -> dict:
    """What the JSON file holds."""
    return {
        "model": check.name,
        "model_sha256": model_sha256,
        "verdict": check.verdict,
        "signals": listed(check.signals),
        "decoded": listed(check.decoded),
        "rejected": check.rejected,
        "doubtful": check.doubtful,
    }


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


def _training(
    place: Path, limit: int | None, tested: Path, benchmark: Benchmark, instructions: Instructions, file: Path
) -> Benchmark:
    """The benchmark of training clips, of the subsets that the other one has; UserError where a clip is in both."""
    found = Benchmark.load(place, limit)
    rows = [row for row in found.rows if row.subset in benchmark.options]
    rows, _ = _known(rows, instructions, file)
    if not rows:
        raise UserError(f"{place}: has no row about {', '.join(benchmark.options)}; give one that has")
    with waiting(f"comparing {place} with {tested}"):
        ours, theirs = ({row.clip.sha256() for row in each} - {""} for each in (benchmark.rows, rows))
    if shared := len(ours & theirs):
        raise UserError(
            f"{place}: has {shared} clips that are in {tested} too; "
            "that one must be of clips that the teacher was not trained on"
        )
    return Benchmark(rows, found.options, found.rejected)


def _settings(model: Path, benchmark: Benchmark, training: Benchmark | None, instructions: Instructions) -> dict:
    """Of what decides the figures, for a check that is resumed, all that is a hash of files."""
    options = {name: list(attribute.options.items()) for name, attribute in instructions.attributes.items()}
    sha256 = cache(Clip.sha256)
    return {
        "check": 1,
        "model_sha256": model_hash(model),
        "benchmark_sha256": fingerprint(benchmark, sha256),
        "train_benchmark_sha256": fingerprint(training, sha256) if training else None,
        "options_sha256": hashlib.sha256(json.dumps(options).encode()).hexdigest(),
    }


def _likelihoods(probe: Probe, rows: list[Row], name: str) -> dict[str, dict[Signal, np.ndarray]]:
    """What `Probe.likelihoods` finds, shown as it grows."""
    if before := len(probe.known(rows)):
        print(
            f"caad-ds check-teacher: resuming after {counted(before, 'row')} of {probe.journal.path}", file=sys.stderr
        )
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

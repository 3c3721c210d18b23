"""`caad-ds check-teacher`: check whether a teacher is fit for contrastive distillation, before training.

Each option's statement is scored by its teacher-forced likelihood under z_pos, z_neg and z_c, so the likeliest option
is the one that the distillation target prefers. The teacher's greedy answers are scored too: without a contrast, and
with contrastive decoding for each negative at the recommended alpha (the highest one if none is recommended).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from caad_ds.config.objective_section import CHECKED_ALPHAS, CHECKED_NEGATIVES, NEGATIVES
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.benchmark_kinds import load, named
from caad_ds.evaluation.benchmarks.items import BenchmarkRow, Clip, rows_of
from caad_ds.evaluation.evaluation_identity import fingerprint
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, score
from caad_ds.evaluation.scoring.metric_definitions import metrics_of
from caad_ds.evaluation.teacher_check.answer_options import Options
from caad_ds.evaluation.teacher_check.check_journal import CheckJournal
from caad_ds.evaluation.teacher_check.check_tables import IntermediateTable, listed
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.generalisation import NeutralAnswers, validation_losses
from caad_ds.evaluation.teacher_check.probe import Probe
from caad_ds.evaluation.teacher_check.verdict import Attribute, judge, signal_metrics
from caad_ds.generation.decoding_settings import DTYPES, check_choice, check_counts
from caad_ds.generation.model import Model
from caad_ds.models.model_hashes import model_hash
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_json
from caad_ds.utils.formatting import counted
from caad_ds.utils.model_names import model_folder, run_name
from caad_ds.utils.paths import existing, new_file
from caad_ds.utils.progress import progress, waiting


@dataclass(frozen=True)
class TeacherCheck:
    """Result of a check: metrics by signal, of the likeliest options and of greedy answers, and the verdict.

    `rejected` and `doubtful` are `{id, reason}` of rows that could not be used, or whose audio is doubtful; the reasons
    of rejected rows of training clips begin with `--train-benchmark`.
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
    instructions: str | Path | None = None,
    *,
    data: str | Path | None = None,
    train_benchmark: str | Path | None = None,
    train_data: str | Path | None = None,
    negatives: Sequence[str] = CHECKED_NEGATIVES,
    alphas: Sequence[float] = CHECKED_ALPHAS,
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
        benchmark: of clips that the teacher was not trained on, as `evaluate` takes it; questions with options.
        instructions: YAML with the options of each subset and their statements; None: the benchmark's own options.
        data: folder of the files that a described benchmark names.
        train_benchmark: one of clips that the teacher was trained on, to distinguish over- from underfitting.
        train_data: like `data`, for `train_benchmark`.
        negatives: inputs of the second path: zero_mel, silence, noise, text_only, shuffled.
        alphas: of the contrasts that are tried.
        out: JSON file of metrics and verdict; an interrupted check resumes. None: nothing is saved.
        limit: only the first rows of each subset.
        max_new_tokens: per answer.
        batch_size: items at once.
        device: cpu, cuda, cuda:1, ...; None: cuda if there is one.
        dtype: of the model, float32 or bfloat16.

    Raises:
        UserError: a value is out of range, a path holds something else, or no row could be used.
    """
    _check(negatives, alphas, dtype)
    check_counts(limit=limit, batch_size=batch_size, max_new_tokens=max_new_tokens)
    folder, path = model_folder(model), named(benchmark)
    file = None if instructions is None else existing(instructions)
    written = None if out is None else new_file(out)
    alphas, name = list(dict.fromkeys(alphas)), run_name(folder)
    chosen = pick_device(device)
    known = Instructions.load(file) if file else None
    tested = load(path, None, limit, None if data is None else existing(data))
    all_rows, options = rows_of(tested.items), Options(tested, known)
    rows, rejected = options.usable(all_rows, file)
    sha256 = cache(Clip.sha256)  # several rows ask about one clip
    training = None
    if train_benchmark is None and train_data is not None:
        raise UserError("--train-data: is where the files of --train-benchmark are; give that too")
    if train_benchmark is not None:
        trained = load(named(train_benchmark), None, limit, None if train_data is None else existing(train_data))
        training = _training(Path(train_benchmark), trained, path, all_rows, options, file, sha256)
    settings: dict = {}
    if written:
        with waiting(f"hashing {folder} and {path}"):
            settings = _settings(folder, tested, training, known, sha256) | {
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
        others = [row.variants[0] for row in all_rows]
        settings_of = options, journal, batch_size, max_new_tokens
        probe = Probe(loaded, [*dict.fromkeys(negatives)], alphas, *settings_of, others=others)
        found = _likelihoods(probe, rows, name)
        rejected = tested.rejected + rejected + [{"id": n, "reason": r} for n, r in probe.rejected.items()]
        if not found:
            raise UserError(f"{path}: no row could be used ({rejected[0]['reason']}); fix the benchmark")
        trained_answers, left_out = _training_answers(probe, training)
        rejected += left_out
        with progress("scoring"):
            attributes = _attributes(rows, found, options)
            table = {signal: signal_metrics(attributes, signal) for signal in probe.signals}
            verdict = judge(attributes, table, trained_answers, validation_losses(folder))
        alpha = verdict["alpha"] or max(alphas)
        decoded = decoded_metrics(probe, [row for row in rows if row.id in found], alpha)
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
    """Return the contents of the JSON file."""
    return {
        "model": check.name,
        "model_sha256": model_sha256,
        "verdict": check.verdict,
        "signals": listed(check.signals),
        "decoded": listed(check.decoded),
        "rejected": check.rejected,
        "doubtful": check.doubtful,
    }


@dataclass(frozen=True)
class _Training:
    """A benchmark of training clips, the rows of it that are used, and those that cannot be."""

    benchmark: Benchmark
    options: Options
    rows: list[BenchmarkRow]
    rejected: list[dict]


def _training(
    path: Path, benchmark: Benchmark, tested: Path, rows: list[BenchmarkRow], options: Options, file: Path | None,
    sha256: Callable[[Clip], str],
) -> _Training:  # fmt: skip
    """Return the benchmark of training clips, limited to the tested subsets; raises UserError if they share a clip."""
    subsets = dict.fromkeys(row.subset for row in rows)
    own_options = Options(benchmark, options.instructions)
    usable, rejected = own_options.usable([row for row in rows_of(benchmark.items) if row.subset in subsets], file)
    if not usable:
        raise UserError(f"{path}: has no row about {', '.join(subsets)}; give one that has")
    with waiting(f"comparing {path} with {tested}"):
        tested_hashes, hashes = (
            {sha256(clip) for row in part for clip in row.variants[0].clips} - {""} for part in (rows, usable)
        )
    if shared := len(tested_hashes & hashes):
        raise UserError(
            f"{path}: has {shared} clips that are in {tested} too; "
            "that one must be of clips that the teacher was not trained on"
        )
    return _Training(benchmark, own_options, usable, benchmark.rejected + rejected)


def _settings(
    model: Path, benchmark: Benchmark, training: _Training | None, instructions: Instructions | None,
    sha256: Callable[[Clip], str],
) -> dict:  # fmt: skip
    """Return the hashes of the files that determine the metrics; a resumed check must match them."""
    attributes = instructions.attributes if instructions else {}
    options = {name: list(attribute.options.items()) for name, attribute in attributes.items()}
    trained = [item for row in training.rows for item in row.items()] if training else []
    return {
        "check": 1,
        "model_sha256": model_hash(model),
        "benchmark_sha256": fingerprint(benchmark, sha256),
        "train_benchmark_sha256": fingerprint(training.benchmark, sha256, trained) if training else None,
        "options_sha256": hashlib.sha256(json.dumps(options).encode()).hexdigest(),
    }


def _likelihoods(probe: Probe, rows: list[BenchmarkRow], name: str) -> dict[str, dict[Signal, np.ndarray]]:
    """Return `Probe.likelihoods`, with intermediate tables."""
    if before := len(probe.known(rows)):
        print(
            f"caad-ds check-teacher: resuming after {counted(before, 'row')} of {probe.journal.path}", file=sys.stderr
        )
    table = IntermediateTable(len(rows), lambda: _attributes(rows, probe.known(rows), probe.options))
    return probe.likelihoods(rows, f"checking {name}", table.show)


def _training_answers(probe: Probe, training: _Training | None) -> tuple[dict[str, NeutralAnswers], list[dict]]:
    """Return the neutral answers about training clips, by attribute, and the rejected rows."""
    if training is None:
        return {}, []
    settings = probe.journal, probe.batch_size, probe.max_new_tokens
    neutral = training.benchmark.conditions[:1]
    training_probe = Probe(probe.loaded, (), (), training.options, *settings, part="training", conditions=neutral)
    found = training_probe.likelihoods(training.rows, "asking about training clips")
    attributes = _attributes(training.rows, found, training.options)
    rejected = training.rejected + [{"id": n, "reason": r} for n, r in training_probe.rejected.items()]
    left_out = [{**row, "reason": f"--train-benchmark: {row['reason']}"} for row in rejected]
    return {attribute.name: attribute.neutral for attribute in attributes}, left_out


def _attributes(rows: list[BenchmarkRow], found: dict[str, dict], options: Options) -> list[Attribute]:
    """Return an `Attribute` per subset; rows with fewer options are padded."""
    attributes = []
    known = [row for row in rows if row.id in found]
    for subset in dict.fromkeys(row.subset for row in known):
        own = [row for row in known if row.subset == subset]
        gt = np.array([list(options.of(row)).index(row.gt) for row in own])
        most = max(len(options.of(row)) for row in own)
        signals = {s: np.stack([_padded(found[row.id][s], most) for row in own]) for s in found[own[0].id]}
        attributes.append(Attribute(subset, gt, signals))
    return attributes


def _padded(likelihoods: np.ndarray, options: int) -> np.ndarray:
    """Return [conditions, options], padded with -inf."""
    missing = options - likelihoods.shape[-1]
    return np.pad(likelihoods, ((0, 0), (0, missing)), constant_values=-np.inf) if missing else likelihoods


def decoded_metrics(probe: Probe, rows: Sequence[BenchmarkRow], alpha: float) -> dict[Signal, dict]:
    """Score the greedy answers under z_pos and z_c, per attribute and pooled, by the benchmark's rule."""
    wanted = [Signal(), *(signal for signal in probe.signals if signal.alpha == alpha)]
    found = probe.answers(rows, wanted, "decoding")
    groups = {subset: [row for row in rows if row.subset == subset] for subset in dict.fromkeys(r.subset for r in rows)}
    right = {(row.id, signal): probe.options.right(row, found[row.id][signal]) for row in rows for signal in wanted}
    metrics = metrics_of(len(probe.conditions))
    return {
        signal: {
            name: score(np.array([right[row.id, signal] for row in members]).T[None], metrics=metrics)
            for name, members in {POOLED: rows, **groups}.items()
        }
        for signal in wanted
    }

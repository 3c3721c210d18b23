"""Scores of evaluations for a model card."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from caad_ds.evaluation.comparison.run_folders import read_runs
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.result_kinds.result_kind import result_kind_of
from caad_ds.evaluation.tables_and_plots.evaluation_tables import evaluation_notes, evaluation_rows
from caad_ds.models.model_hashes import model_hash
from caad_ds.training.export.model_card import LONGEST_NOTE, TASK, Scores
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.markdown import one_line

# Keys of a setup that `_decoding` does not list: the name, the model and the benchmark.
UNLISTED = ("name", "model_sha256", "benchmark", "benchmark_sha256")
OTHER = ("shift", "tir_all", "MRS", "yes", "precision", "recall", "F1")  # metrics other than accuracy


def read_evaluations(folders: Iterable[Path]) -> dict[Path, dict]:
    """Return the contents of `scores.json` of finished evaluations.

    Raises UserError if one is unfinished or of another version, or if two have the same name and benchmark, by which a
    card distinguishes them.
    """
    found: dict[Path, dict] = {}
    keys = ("name", "benchmark", "benchmark_sha256")
    for folder in folders:
        read_runs([folder])
        scores = RunFolder(folder).read_scores()
        for other, earlier in found.items():
            if all(earlier["setup"].get(key) == scores["setup"].get(key) for key in keys):
                raise UserError(
                    f"--evaluation {other} and {folder}: both are {scores['setup']['name']!r} on one benchmark, and a "
                    "card tells evaluations apart by these; leave one out, or evaluate it with a --name of its own"
                )
        found[folder] = scores
    return found


def scores_of(evaluations: Mapping[Path, dict], model: Path) -> list[Scores]:
    """Return the scores for a card; raises UserError if one belongs to a model other than that in `model`."""
    own_hash = None
    if not (model / "config.json").is_file():
        raise UserError(
            "--evaluation: an evaluation is of a whole model, and these are adapters; leave one of them out"
        )
    shown = []
    for folder, scores in evaluations.items():
        own_hash = own_hash or model_hash(model)
        if scores["setup"].get("model_sha256") != own_hash:
            raise UserError(
                f"--evaluation {folder}: made with other weights or another tokenizer than this model's (its "
                f"{scores['setup']['name']!r} has another hash); evaluate this checkpoint, or leave it out"
            )
        shown.append(_shown(scores))
    return shown


def _shown(scores: dict) -> Scores:
    setup = scores["setup"]
    header, rows = evaluation_rows(scores)
    title = f"{setup['name']}: {setup['benchmark']} (%, 95% intervals)"
    args, decoding = _args(scores), "; ".join(_decoding(scores))
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=setup["benchmark"],
            dataset_name=one_line(f"a benchmark in the format {setup['benchmark']} ({decoding})", LONGEST_NOTE),
            dataset_config=one_line(setup["name"]),
            dataset_args=args,
            dataset_revision=setup["benchmark_sha256"],
            metric_type=name.lower() if name in OTHER else "accuracy",
            metric_name=name,
            metric_value=_percent(figure["value"]),
            metric_args={bound: _percent(figure[bound]) for bound in ("low", "high")},
        )
        for name, figure in result_kind_of(setup).headline(scores).items()
        if figure.get("value") is not None
    ]
    return Scores(title, _setup(scores), header, rows, evaluation_notes(scores), results)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _setup(scores: dict) -> str:
    """Describe the benchmark and the decoding."""
    setup = scores["setup"]
    benchmark = f"benchmark in the format {setup['benchmark']}, content sha256 {setup['benchmark_sha256']}"
    return "; ".join([benchmark, *_decoding(scores)]) + "."


def _args(scores: dict) -> dict[str, Any]:
    """Return the settings that determine the front matter's metrics: rows used, prompt and decoding."""
    given = {key: value for key, value in scores["setup"].items() if key not in UNLISTED and value is not None}
    part = {"limited": True} if scores.get("limited") else {}
    left_out = {"rows_left_out": len(scores["rejected"])} if scores["rejected"] else {}
    return part | left_out | {key: one_line(value) if isinstance(value, str) else value for key, value in given.items()}


def _decoding(scores: dict) -> list[str]:
    """Describe these settings in words; unknown ones are listed as key and value."""
    setup = dict(scores["setup"])
    for key in UNLISTED:
        setup.pop(key, None)
    parts = ["on a part of its rows (--limit)"] if scores.get("limited") else []
    if scores["rejected"]:
        parts.append(f"{counted(len(scores['rejected']), 'row')} left out")
    if prompt := setup.pop("prompt", None):
        parts.append(f"prompts: {prompt} (--prompt)")
    sampling = _taken(setup, "temperature", "top_p", "top_k", "seed")
    parts.append(f"sampled, {_listed(sampling)}" if "temperature" in sampling else "greedy decoding")
    contrast = _taken(setup, "contrast_alpha", "negative", "plausibility", "alpha_gate", "gate_m")
    if "contrast_alpha" in contrast:
        alpha = f"alpha {contrast.pop('contrast_alpha'):g}"
        parts.append(f"contrastive decoding ({', '.join([alpha, *([_listed(contrast)] if contrast else [])])})")
    longest, dtype = setup.pop("max_new_tokens"), setup.pop("dtype")
    others = [f"{key} {value}" for key, value in setup.items() if value is not None]
    return [*parts, f"answers of at most {longest} tokens", str(dtype), *others]


def _taken(setup: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Remove settings from the setup and return those that are not None."""
    found = {key: setup.pop(key, None) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())

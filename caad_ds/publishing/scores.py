"""The scores of evaluations as a model card shows them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from caad_ds.evaluation.comparison.run_folders import read_runs
from caad_ds.evaluation.figures.figures import figures_of
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.report.evaluation_tables import evaluation_notes, evaluation_rows
from caad_ds.models.folder_hash import model_hash
from caad_ds.training.export.model_card import LONGEST_NOTE, TASK, Scores
from caad_ds.utils.errors import UserError
from caad_ds.utils.markdown import one_line
from caad_ds.utils.wording import counted

# What `_decoding` does not list key by key: which model and benchmark it was, and what it is called.
ELSEWHERE = ("name", "model_sha256", "benchmark", "benchmark_sha256")
OTHER = ("shift", "tir_all", "MRS", "yes", "precision", "recall", "F1")  # figures that are no accuracy


def read_evaluations(folders: Iterable[Path]) -> dict[Path, dict]:
    """What is in the `scores.json` of finished evaluations.

    UserError where one is unfinished or of another version, or has name and benchmark of another one: a card tells
    them apart by these.
    """
    found: dict[Path, dict] = {}
    known = ("name", "benchmark", "benchmark_sha256")
    for folder in folders:
        read_runs([folder])
        scores = RunFolder(folder).read_scores()
        for other, its in found.items():
            if all(its["setup"].get(key) == scores["setup"].get(key) for key in known):
                raise UserError(
                    f"--evaluation {other} and {folder}: both are {scores['setup']['name']!r} on one benchmark, and a "
                    "card tells evaluations apart by these; leave one out, or evaluate it with a --name of its own"
                )
        found[folder] = scores
    return found


def scores_of(evaluations: Mapping[Path, dict], model: Path) -> list[Scores]:
    """What a card shows of them; UserError where one is of another model than the one in the folder `model`."""
    own = None
    if not (model / "config.json").is_file():
        raise UserError(
            "--evaluation: an evaluation is of a whole model, and these are adapters; leave one of them out"
        )
    shown = []
    for folder, scores in evaluations.items():
        own = own or model_hash(model)
        if scores["setup"].get("model_sha256") != own:
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
    args, said = _args(scores), "; ".join(_decoding(scores))
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=setup["benchmark"],
            dataset_name=one_line(f"a benchmark in the format {setup['benchmark']} ({said})", LONGEST_NOTE),
            dataset_config=one_line(setup["name"]),
            dataset_args=args,
            dataset_revision=setup["benchmark_sha256"],
            metric_type=name.lower() if name in OTHER else "accuracy",
            metric_name=name,
            metric_value=_percent(figure["value"]),
            metric_args={bound: _percent(figure[bound]) for bound in ("low", "high")},
        )
        for name, figure in figures_of(setup).headline(scores).items()
        if figure.get("value") is not None
    ]
    return Scores(title, _setup(scores), header, rows, evaluation_notes(scores), results)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _setup(scores: dict) -> str:
    """What was asked, and how it was decoded."""
    setup = scores["setup"]
    asked = f"benchmark in the format {setup['benchmark']}, content sha256 {setup['benchmark_sha256']}"
    return "; ".join([asked, *_decoding(scores)]) + "."


def _args(scores: dict) -> dict[str, Any]:
    """What decides the figures of a front matter, by name: on which part of the benchmark, asked and decoded how."""
    given = {key: value for key, value in scores["setup"].items() if key not in ELSEWHERE and value is not None}
    part = {"limited": True} if scores.get("limited") else {}
    left_out = {"rows_left_out": len(scores["rejected"])} if scores["rejected"] else {}
    return part | left_out | {key: one_line(each) if isinstance(each, str) else each for key, each in given.items()}


def _decoding(scores: dict) -> list[str]:
    """The same in words; a setting that is not known here by its key and value, so that none is left out."""
    setup = dict(scores["setup"])
    for key in ELSEWHERE:
        setup.pop(key, None)
    parts = ["on a part of its rows (--limit)"] if scores.get("limited") else []
    if scores["rejected"]:
        parts.append(f"{counted(len(scores['rejected']), 'row')} left out")
    if prompt := setup.pop("prompt", None):
        parts.append(f"prompts: {prompt} (--prompt)")
    drawn = _taken(setup, "temperature", "top_p", "top_k", "seed")
    parts.append(f"sampled, {_listed(drawn)}" if "temperature" in drawn else "greedy decoding")
    contrast = _taken(setup, "contrast_alpha", "negative", "plausibility", "alpha_gate", "gate_m")
    if "contrast_alpha" in contrast:
        alpha = f"alpha {contrast.pop('contrast_alpha'):g}"
        parts.append(f"contrastive decoding ({', '.join([alpha, *([_listed(contrast)] if contrast else [])])})")
    longest, dtype = setup.pop("max_new_tokens"), setup.pop("dtype")
    others = [f"{key} {value}" for key, value in setup.items() if value is not None]
    return [*parts, f"answers of at most {longest} tokens", str(dtype), *others]


def _taken(setup: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Those of the settings that are given, taken out of the setup."""
    found = {key: setup.pop(key, None) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())

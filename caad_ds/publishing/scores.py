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
from caad_ds.training.export.model_card import TASK, Scores
from caad_ds.utils.errors import UserError
from caad_ds.utils.wording import counted

OTHER = ("shift", "tir_all", "MRS", "yes", "precision", "recall", "F1")  # figures that are no accuracy


def read_evaluations(folders: Iterable[Path]) -> dict[Path, dict]:
    """What is in the `scores.json` of finished evaluations; UserError where one is unfinished or of another version."""
    found = {}
    for folder in folders:
        read_runs([folder])
        found[folder] = RunFolder(folder).read_scores()
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
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=setup["benchmark"],
            dataset_name=f"a benchmark in the format {setup['benchmark']}",
            dataset_config=setup["name"],
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
    parts = [f"benchmark in the format {setup['benchmark']}, content sha256 {setup['benchmark_sha256']}"]
    if scores.get("limited"):
        parts.append("on a part of its rows (--limit)")
    if scores["rejected"]:
        parts.append(f"{counted(len(scores['rejected']), 'row')} left out")
    parts.append("greedy decoding" if setup.get("temperature") is None else _sampling(setup))
    if setup.get("contrast_alpha") is not None:
        parts.append(f"contrastive decoding (alpha {setup['contrast_alpha']:g}, negative {setup['negative']})")
    return "; ".join([*parts, f"answers of at most {setup['max_new_tokens']} tokens", setup["dtype"]]) + "."


def _sampling(setup: dict[str, Any]) -> str:
    keys = [key for key in ("temperature", "top_p", "top_k", "seed") if setup.get(key) is not None]
    return "sampled, " + ", ".join(f"{key} {setup[key]}" for key in keys)

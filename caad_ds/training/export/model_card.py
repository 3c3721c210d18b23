"""The model card of a trained model: README.md with front matter, as the Hugging Face hub reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from caad_ds.config.schema import Config
from caad_ds.models.reader import AFTER_AUDIO, Reader
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.training.export import README
from caad_ds.training.export.base_models import HUB, UNKNOWN, Base
from caad_ds.training.export.corpora import Corpora, read_corpora
from caad_ds.training.export.recipe import recipe
from caad_ds.training.export.start_record import StartRecord
from caad_ds.utils.files import read_json
from caad_ds.utils.formatting import short
from caad_ds.utils.markdown import code, one_line, plain

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
MISSING = "not recorded"
OTHER = "other"  # the hub's identifier of a licence with a custom name and link
TASK = "audio-text-to-text"
MOST_CORPORA = 20
LONGEST_NOTE = 2000  # characters


@dataclass(frozen=True)
class Scores:
    """An evaluation of the model for its card: plain texts, not Markdown, and figures for the front matter."""

    title: str
    setup: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    results: Sequence[EvalResult]


def write_card(
    folder: Path, *, cfg: Config, run: Path, step: int, reader: Reader, scores: Sequence[Scores] = ()
) -> None:
    """Write the card of a model folder that is otherwise complete.

    `run` is the folder of the run that trained it, `step` the number of finished optimizer steps, `reader` the reader
    of the model's prompts.
    """
    start = StartRecord.read(run, cfg)
    corpora = None if cfg.data.reader == "stream" else read_corpora(run, str(Path(str(cfg.data.train))))
    config = read_json(folder / "config.json", "") if (folder / "config.json").is_file() else {}
    objective = cfg.objective
    distilled = objective.name == "distill"
    contrasted = distilled and objective.alpha > 0
    card = ModelCard.from_template(
        _front_matter(
            cfg,
            start.bases,
            config,
            [result for each in scores for result in each.results],
            ["knowledge-distillation"] * distilled + ["caad"] * contrasted,
        ),
        template_path=str(TEMPLATE),
        name=plain(cfg.run.name),
        distilled=distilled,
        contrasted=contrasted,
        remote_code="auto_map" in config,
        adapters=not config,
        model_class=_published_class(config),
        bases=[(base.role, _linked(base), _licence_text(base)) for base in start.bases],
        random=any(base.random for base in start.bases if base.kept),
        **_data(start, corpora),
        recipe=[(code(key), code(value), plain(meaning)) for key, value, meaning in recipe(cfg)],
        step=step,
        versions=", ".join(f"{name} {plain(version)}" for name, version in start.versions.items()) or MISSING,
        software=f" {plain(start.versions['caad-ds'])}" if "caad-ds" in start.versions else "",
        scores=[_escaped(each) for each in scores],
        longest=f"{reader.longest_seconds:g}",
        most_audios=reader.most_audios,
        transcript=reader.transcript == AFTER_AUDIO,
    )
    card.save(folder / README)


def _front_matter(
    cfg: Config, bases: Sequence[Base], config: dict[str, Any], results: list[EvalResult], tags: list[str]
) -> ModelCardData:
    kept = list(dict.fromkeys(base.hub_id for base in bases if base.kept and base.hub_id))
    relation: dict[str, Any] = {"base_model_relation": "finetune" if config else "adapter"} if kept else {}
    return ModelCardData(
        base_model=kept or None,
        **relation,
        library_name="transformers" if config else "peft",
        pipeline_tag=TASK,
        **_licence(bases),
        tags=["caad-ds", "speech", "audio", *tags],
        model_name=one_line(cfg.run.name) if results else None,
        eval_results=results or None,
    )


def _licence(bases: Sequence[Base]) -> dict[str, Any]:
    """Return the licence that all bases share; the hub's "unknown" if they differ or one is not known."""
    licences = {(base.licence, base.licence_name, base.licence_link) for base in bases if not base.random}
    licence, name, link = licences.pop() if len(licences) == 1 else (None, None, None)
    if licence is None or (licence == OTHER and not link):
        return {"license": UNKNOWN}
    beside = {"license_name": name, "license_link": link}
    return {"license": licence} | {key: one_line(value) for key, value in beside.items() if value}


def _licence_text(base: Base) -> str:
    if base.random:
        return "-"
    if base.licence is None:
        return MISSING + ("; see its page" if base.hub_id else "")
    return plain(base.licence) + (f" ({plain(base.licence_name)})" if base.licence_name else "")


def _linked(base: Base) -> str:
    if base.random:
        return f"random weights ({plain(base.name)})"
    if base.hub_id is None:
        return plain(base.name)
    link = f"[{plain(base.hub_id)}]({HUB}/{quote(base.hub_id)})"
    return link if base.name == base.hub_id else f"{plain(base.name)} (of {link})"


def _published_class(config: dict[str, Any]) -> str | None:
    """Return the transformers class that loads the folder; None for our own family."""
    names = config.get("architectures") or []
    own = config.get("model_type") == SpeechLMConfig.model_type
    return names[0] if names and not own and str(names[0]).isidentifier() else None


def _data(start: StartRecord, corpora: Corpora | None) -> dict[str, Any]:
    hashes = {name: code(start.data[name]) if name in start.data else MISSING for name in ("index", "manifest")}
    if not corpora:
        return hashes
    rows = sorted(corpora.items(), key=lambda item: -item[1][1])
    table = [(plain(name) or "(without a name)", *counts) for name, counts in rows[:MOST_CORPORA]]
    if rest := [counts for _, counts in rows[MOST_CORPORA:]]:
        table.append((f"{len(rest)} others", sum(row[0] for row in rest), sum(row[1] for row in rest)))
    return hashes | {
        "corpora": [(name, f"{samples:,}", _hours(seconds)) for name, samples, seconds in table],
        "samples": f"{sum(samples for samples, _ in corpora.values()):,}",
        "hours": _hours(sum(seconds for _, seconds in corpora.values())),
    }


def _escaped(scores: Scores) -> dict[str, Any]:
    return {
        "title": plain(scores.title),
        "setup": plain(scores.setup, LONGEST_NOTE),
        "header": [plain(cell) for cell in scores.header],
        "rows": [[plain(cell) for cell in row] for row in scores.rows],
        "notes": [plain(note, LONGEST_NOTE) for note in scores.notes],
    }


def _hours(seconds: float) -> str:
    return short(seconds / 3600)

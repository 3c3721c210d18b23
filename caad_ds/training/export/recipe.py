"""The training settings of a model, as rows of its card."""

from caad_ds.config.listing import field_of
from caad_ds.config.schema import Config
from caad_ds.tracking.secrets import hide_secrets
from caad_ds.training.run_identity import course, flatten
from caad_ds.utils.text import as_text

ALWAYS = (
    "objective.name", "objective.alpha", "objective.temperature", "objective.kd_weight", "objective.divergence",
    "teacher.negative", "objective.audio_dropout", "objective.dropout_negative", "student.train", "optimizer.lr",
    "optimizer.batch_size", "run.precision", "run.seed",
)  # fmt: skip
# Paths on a machine, and what the tables of data and bases contain.
ELSEWHERE = (
    "data.train", "teacher.path", "student.path", "student.llm", "student.encoder", "student.tokenizer",
    "student.deepspeed",
)  # fmt: skip


def recipe(cfg: Config) -> list[tuple[str, str, str]]:
    """Return (key, value, meaning) of the settings that decide the course of training: the main ones, and those not at
    their default."""
    read, own = flatten(cfg.read_keys()), flatten(course(cfg, exclude_defaults=True))
    unread = {"optimizer.batch_size"} if cfg.optimizer.batch_tokens else set()
    if not cfg.uses_negative:  # a `pair` cache stores that path for other students too
        unread.add("teacher.negative")
    if not cfg.objective.audio_dropout:
        unread |= {"objective.audio_dropout", "objective.dropout_negative"}
    keys = [key for key in dict.fromkeys((*ALWAYS, *own)) if key in read and key not in unread and not _elsewhere(key)]
    return [(key, _value(read[key]), _meaning(key)) for key in keys if read[key] is not None]


def _elsewhere(key: str) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in ELSEWHERE)


def _value(value: object) -> str:
    return hide_secrets(", ".join(map(as_text, value)) if isinstance(value, list) else as_text(value))


def _meaning(key: str) -> str:
    """Return the schema's description of a key; "" for one within a user's own mapping."""
    field = field_of(key)
    return (field.description if field else None) or ""

"""`caad-ds explain`: a teacher's token distributions with the audio, without it, and under their contrast.

An answer is teacher-forced on all paths, as in distillation. The result has p_pos, p_neg and the contrastive target
softmax(z_c / tau) at each position, and with --teacher also the student's distribution.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from caad_ds.data.batch import Batch
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.benchmark_kinds import load, named
from caad_ds.evaluation.benchmarks.items import Item, rows_of
from caad_ds.evaluation.explain.answer_settings import AnswerSettings
from caad_ds.evaluation.explain.result import Explanations
from caad_ds.evaluation.explain.token_picture import draw
from caad_ds.evaluation.explain.token_text import Tokens
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, ContrastiveLogits, generate
from caad_ds.generation.decoding_settings import DTYPES, check_choice, check_counts
from caad_ds.generation.model import Model
from caad_ds.generation.question import as_sample
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.file_names import stems
from caad_ds.utils.files import write_json
from caad_ds.utils.model_names import model_folder
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import progress

LONGEST_ENDING = 16  # bytes of `.json`, `.2.png`, ...


@dataclass(frozen=True)
class Setting:
    """The models and the contrast between the teacher's paths.

    `student` and `shared`, the common tokens of both, are None if there is only one model.
    """

    teacher: Model
    student: Model | None
    contrasted: Contrast
    temperature: float
    shared: SharedVocabulary | None = None

    @property
    def answerer(self) -> Model:
        """The model that answers."""
        return self.student or self.teacher


def explain(
    model: str | Path,
    benchmark: str | Path,
    items: Sequence[str],
    out: str | Path,
    *,
    data: str | Path | None = None,
    teacher: str | Path | None = None,
    answer: str = "own",
    instructions: str | Path | None = None,
    contrast_alpha: float = 1.0,
    negative: str = "zero_mel",
    plausibility: float | None = None,
    temperature: float = 1.0,
    top: int = 5,
    max_new_tokens: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    alpha_gate: str = "none",
    gate_m: float = 2.0,
) -> Explanations:
    """Explain answers token by token, as `caad-ds explain` does; writes a PNG and a JSON file per item.

    Args:
        model: folder of a model, or of the run that trained it, or a hub id.
        benchmark: as `evaluate` takes it.
        items: `gender/0` for all conditions, or `gender/0:adversarial`.
        out: output folder.
        data: folder of the files of a described benchmark.
        teacher: folder or hub id of the model whose signals are shown beside the model's own distribution.
        answer: own (the model's), contrast (its own under contrast) or gt.
        instructions: YAML with the right answers' statements, for `gt`.
        contrast_alpha: alpha of the target.
        negative: input of the second path: zero_mel, silence, noise, text_only or shuffled.
        plausibility: keep tokens with p >= plausibility * max p_pos in the target.
        temperature: of all distributions.
        top: number of tokens shown per position.
        max_new_tokens: maximum length of an answer.
        device: cpu, cuda, cuda:1, ...; None: cuda if there is one.
        dtype: of the models, float32 or bfloat16.
        alpha_gate: text_certainty (experimental) lowers alpha where p_neg is unsure; none: constant alpha.
        gate_m: the gate's m: no contrast once the entropy reaches that of m equally likely tokens.

    Raises:
        UserError: a value is out of range, a path holds something else, or an item does not exist.
    """
    file = existing(instructions) if instructions else None
    settings = AnswerSettings(answer, contrast_alpha, negative, plausibility, temperature, file, alpha_gate, gate_m)
    check_counts(top=top, max_new_tokens=max_new_tokens)
    check_choice("--dtype", dtype, DTYPES)
    models = model_folder(model), model_folder(teacher) if teacher else None
    loaded_benchmark = load(named(benchmark), data=None if data is None else existing(data))
    chosen_items, rejected = chosen(loaded_benchmark, items)
    others = loaded_benchmark.items
    names = file_stems(others)
    statements = Instructions.load(settings.instructions) if settings.instructions else None
    setting = _load(*models, settings, device, dtype)
    saved: list[tuple[dict, list[Path]]] = []
    doubtful: dict[str, dict] = {}
    with progress("explaining", len(chosen_items)) as advance:
        for item in chosen_items:
            clips = {id(loaded): loaded.clips(others) for loaded in (setting.teacher, setting.answerer)}
            fault = _unaskable(setting, clips, item)
            tokens = [] if fault else _answer(setting, clips, item, statements, settings, max_new_tokens)
            if fault := fault or _unshared(setting, tokens):
                rejected[item.id] = fault
            else:
                found = {**described(item, *models, settings), **explained(setting, clips, item, tokens, top)}
                stem = Path(out) / names[item.key]
                numbers = stem.with_name(f"{stem.name}.json")
                write_json(numbers, found)
                saved.append((found, [numbers, *draw(found, stem)]))
                doubtful |= {row["id"]: row for own_clips in clips.values() for row in own_clips.doubted([item])}
            advance(1)
    left_out = [{"id": name, "reason": reason} for name, reason in rejected.items()]
    return Explanations(saved, left_out, list(doubtful.values()))


def file_stems(items: Collection[Item]) -> dict[str, str]:
    """Return the file name stem of each item, by key, independent of which items are explained.

    Slashes of an id become `_`, unless another id of the benchmark would get the same name.
    """
    plain = {item.id: item.id.replace("/", "_") for item in items}
    count = Counter(plain.values())
    unique = {name: stem if count[stem] == 1 else name for name, stem in plain.items()}
    endings = {item.key: f".{item.condition}" if item.condition else "" for item in items}
    names = stems(unique.values(), LONGEST_ENDING + max(map(len, endings.values()), default=0))
    return {item.key: names[unique[item.id]] + endings[item.key] for item in items}


def _unaskable(setting: Setting, clips: dict[int, Clips], item: Item) -> str | None:
    """Return why an item's clip cannot be decoded or its prompt is invalid, or None."""
    failed = [
        reason for own_clips in clips.values() if not own_clips.encode([item]) for reason in own_clips.failed.values()
    ]
    if failed:
        return f"audio {item.clips[0]}: {failed[0]}"
    try:
        for loaded in {id(model): model for model in (setting.teacher, setting.answerer)}.values():
            loaded.reader.check(as_sample(item), with_answer=False)
    except UserError as error:
        return f"prompt: {error}"
    return None


def _unshared(setting: Setting, answer: list[int]) -> str | None:
    """Return why an answer of the student cannot be forced on the teacher, or None."""
    other = next((token for token in answer if setting.shared and not setting.shared.holds(token)), None)
    if other is None:
        return None
    name = setting.answerer.tokenizer.convert_ids_to_tokens(other)
    return f"answer: it holds {name!r} ({other}), which is another token to the teacher"


def chosen(benchmark: Benchmark, names: Sequence[str]) -> tuple[list[Item], dict[str, str]]:
    """Return the items `ID:condition`, or `ID` under all conditions, and by id why named ones were rejected.

    Raises UserError if an item does not exist, or none can be used.
    """
    by_row = {row.id: list(row.items()) for row in rows_of(benchmark.items)}
    by_item = {f"{item.id}:{item.condition}": [item] for items in by_row.values() for item in items if item.condition}
    reasons = {row["id"]: row["reason"] for row in benchmark.rejected}
    found: dict[tuple, Item] = {}
    rejected = {}
    for name in names:
        items = by_row.get(name) or by_item.get(name)
        row = name if name in reasons else name.rpartition(":")[0]
        if items is None and row in reasons:
            rejected[row] = reasons[row]
            continue
        if items is None:
            near = difflib.get_close_matches(name, [*by_row, *by_item], n=1) or [*by_item, *by_row]
            raise UserError(f"--items {name}: no such item in the benchmark; one is {near[0]}")
        found.update({(item.id, item.condition): item for item in items})
    if not found:
        raise UserError(f"--items {names[0]}: the benchmark's row cannot be used ({next(iter(rejected.values()))})")
    return list(found.values()), rejected


def explained(setting: Setting, clips: dict[int, Clips], item: Item, answer: list[int], top: int) -> dict:
    """Return the answer and, at each position, its own token and the likeliest ones under any signal."""
    signals = {
        name: z.double().div(setting.temperature).softmax(-1) for name, z in _logits(setting, clips, item, answer)
    }
    text_of = Tokens(setting.teacher.tokenizer)
    positions = []
    for index, token in enumerate(answer):
        here = {name: p[index] for name, p in signals.items()}
        most = torch.stack(list(here.values())).amax(0)
        likeliest = most.topk(min(top, len(most))).indices.tolist()
        of_target = {t: float(here["target"][t]) for t in {*likeliest, token}}
        shown = sorted(of_target, key=lambda t: (-of_target[t], t))
        listed = [{"id": t, "text": text_of(t), **{name: float(p[t]) for name, p in here.items()}} for t in shown]
        positions.append({"id": token, "text": text_of(token), "tokens": listed})
    return {"answer": setting.teacher.tokenizer.decode(answer), "signals": list(signals), "positions": positions}


@torch.no_grad()
def _logits(setting: Setting, clips: dict[int, Clips], item: Item, answer: list[int]) -> list[tuple[str, Tensor]]:
    """Return logits [T, V] at the answer's positions: p_pos, p_neg and the target of the teacher, and the student's."""
    teacher, student, contrasted = setting.teacher, setting.student, setting.contrasted

    def logits(loaded: Model, batch: Batch) -> Tensor:
        z = loaded.lm.head().logits(loaded.lm.hidden(batch))
        if setting.shared is None:
            return z
        # Token ids that mean different tokens in the two models are excluded.
        return setting.shared.masked(z)

    def answered(loaded: Model) -> Batch:
        return clips[id(loaded)].answered_ids([item], [answer])

    batch = answered(teacher)
    z_pos = logits(teacher, batch)
    z_neg = logits(teacher, clips[id(teacher)].negative([item], batch, contrasted.negative))
    z_c = ContrastiveLogits.of(contrasted).contrasted(z_pos, z_neg)
    found = [("p_pos", z_pos), ("p_neg", z_neg), ("target", z_c)]
    return found + ([("student", logits(student, answered(student)))] if student else [])


def _answer(
    setting: Setting,
    clips: dict[int, Clips],
    item: Item,
    instructions: Instructions | None,
    settings: AnswerSettings,
    max_new_tokens: int,
) -> list[int]:
    """Return the tokens of the answer to explain, end token included."""
    loaded = setting.answerer
    if settings.answer == "gt":
        statement = _statement(item, instructions, settings.instructions)
        return loaded.reader.check(as_sample(item, statement)).answer
    own_clips, contrasted, second = clips[id(loaded)], None, None
    batch = own_clips.prompts([item])
    if settings.answer == "contrast":
        contrasted = Contrast(settings.contrast_alpha, settings.negative, settings.plausibility, *settings.gate)
        second = own_clips.negative([item], batch, settings.negative)
    [tokens] = generate(loaded.lm, batch, max_new_tokens=max_new_tokens, contrasted=contrasted, negative=second)
    return tokens.tolist()


def _statement(item: Item, instructions: Instructions | None, file: Path | None) -> str:
    if instructions is None:
        return item.gt
    attribute = instructions.attributes.get(item.subset)
    if attribute is None or item.gt not in attribute.options:
        raise UserError(f"{file}: has no statement for {item.gt!r} of {item.subset}; add it, or leave the file out")
    return attribute.options[item.gt]


def described(item: Item, model: Path, teacher: Path | None, settings: AnswerSettings) -> dict:
    """Return the question, the models and the settings, for the item's files."""
    fields = {"id": item.id, "condition": item.condition, "question": item.question, "hint": item.hint, "gt": item.gt}
    return {**fields, "model": str(model), "teacher": teacher and str(teacher), "setting": settings.shown()}


def _load(
    model: Path, teacher_folder: Path | None, settings: AnswerSettings, device_name: str | None, dtype: str
) -> Setting:
    device = pick_device(device_name)
    with progress(f"loading {teacher_folder or model}"):
        teacher = Model.load(teacher_folder or model, device, dtype)
        student = Model.load(model, device, dtype) if teacher_folder else None
        shared = None
        if student:
            rows = len(student.lm.head().weight), len(teacher.lm.head().weight)
            shared = SharedVocabulary.of(student.reader, teacher.reader, rows)
    contrasted = Contrast(settings.contrast_alpha, settings.negative, settings.plausibility, *settings.gate)
    return Setting(teacher, student, contrasted, settings.temperature, shared)

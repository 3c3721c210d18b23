"""Number and length of a run's samples: from the index of its shards, or as given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caad_ds.config.schema import Config
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_index import FILE_NAME, ShardIndex
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models.auto import supported
from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.prompts.prompt_encoder import PromptEncoder, PromptRecord
from caad_ds.models.reader import AFTER_AUDIO, TRANSCRIPT
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.training.batches import batch_shape
from caad_ds.training.plan.meta_models import describe
from caad_ds.utils.errors import UserError

ANSWER_SHARE = 96 / 136  # of a sample's text, as in benchmarks/step.py
SECONDS = 10.0
PROBED = 64  # samples whose records are read
STEPS = 64  # whose micro-batches are examined


@dataclass(frozen=True)
class Workload:
    """Number of samples, and mean lengths: `prompt` and `answer` in tokens of text, audio in `seconds`.

    Answers are cut at data.max_answer_tokens. `longest_*` are those of the longest. `padded` is the mean over
    micro-batches of the longest text, and `audios_per_sample` the mean share of different audios in a micro-batch (1
    without group_by_audio). `validation` is the number of samples of data.validation, `clips` that of different clips
    in both, and `clips_per_sample` their mean number in a sample. `source` says where the numbers come from, `notes`
    what they leave out.
    """

    samples: int
    prompt: float
    answer: float
    seconds: float
    longest_text: int
    longest_seconds: float
    padded: float
    audios_per_sample: float
    validation: int
    clips: float
    clips_per_sample: float
    source: str
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> float:
        """Mean tokens of text per sample."""
        return self.prompt + self.answer


def workload(
    cfg: Config,
    ranks: int,
    samples: int | None,
    tokens: int | None,
    answer_tokens: int | None,
    seconds: float | None,
) -> Workload:
    """Read the workload from the index of data.train, unless `samples` is given.

    UserError if there is neither.
    """
    train = None if cfg.data.reader == "stream" else Path(str(cfg.data.train))
    if samples is None and train is not None and (train / FILE_NAME).is_file():
        if tokens is not None or answer_tokens is not None or seconds is not None:
            raise UserError(f"--tokens, --answer-tokens and --seconds go with --samples; {train} has its own lengths")
        return _of_index(cfg, ranks, train)
    if samples is None:
        raise UserError(f"data.train {cfg.data.train} has no index to read yet; give --samples, and --tokens of each")
    if tokens is None:
        raise UserError("--samples needs --tokens: the mean tokens of a sample's text, prompt and answer together")
    answer = answer_tokens if answer_tokens is not None else max(1, round(tokens * ANSWER_SHARE))
    if tokens < 2:
        raise UserError(f"--tokens {tokens}: a sample has a prompt and an answer; give 2 or more")
    if answer >= tokens:
        raise UserError(f"--answer-tokens {answer} is not below --tokens {tokens}, which count the prompt as well")
    prompt, answer = tokens - answer, min(answer, cfg.data.max_answer_tokens)
    text = prompt + answer
    audio = SECONDS if seconds is None else seconds
    share = "" if answer_tokens is not None else f" (--answer-tokens: {ANSWER_SHARE:.0%} of them are assumed)"
    source = f"as given: {tokens} tokens of text a sample, {answer} of the answer{share}, {audio:g} s; all alike"
    held_out, others, notes = _validation(cfg)
    if cfg.student.keep_encoded_gb:
        notes = (*notes, "student.keep_encoded_gb: each sample is taken as a clip of its own")
    clips = samples + len(others)
    return Workload(samples, prompt, answer, audio, text, audio, text, 1.0, held_out, clips, 1.0, source, notes)


def _validation(cfg: Config) -> tuple[int, set[str], tuple[str, ...]]:
    """Return number and audios of the samples of data.validation; a note if it is configured and not there."""
    folder = cfg.data.validation
    if folder is None:
        return 0, set(), ()
    if (folder / FILE_NAME).is_file():
        entries = ShardIndex.load(folder, check_files=False).samples
        return len(entries), {entry.pcm for entry in entries}, ()
    note = (
        f"data.validation: {folder} has no index to read yet; the validation pass and its rows of a cache are left out"
    )
    return 0, set(), (note,)


def _of_index(cfg: Config, ranks: int, train: Path) -> Workload:
    """Read lengths from the index; its token counts are rescaled with the tokenizer if there is one."""
    reader = IndexedReader(train)
    entries = reader.index.samples
    if not len(entries):
        raise UserError(f"{train}: no samples in its index; pack some")
    estimates = np.array([entry.tokens for entry in entries], float)
    lasting = np.array([entry.seconds for entry in entries])
    chosen = range(0, len(entries), max(1, len(entries) // PROBED))
    records = [reader.without_audio(number).record for number in chosen]
    counts, method = _counted(cfg, records)
    lengths = np.array([prompt + answer for prompt, answer in counts])
    texts = estimates * (lengths.mean() / estimates[list(chosen)].mean())
    answers = texts * (sum(answer for _, answer in counts) / lengths.sum())
    prompt, cut = float((texts - answers).mean()), np.minimum(answers, cfg.data.max_answer_tokens)
    texts, answer = texts - answers + cut, float(cut.mean())
    heard = [entry.pcm for entry in entries]
    padded, audios, longest = _micro_batches(cfg, ranks, texts, heard)
    held_out, others, notes = _validation(cfg)
    clips = sum(len(record["audios"]) for record in records) / len(records)
    if clips != 1:
        notes = (*notes, f"audio: {clips:.2g} clips a sample are counted as one that is as long as all of them")
    source = (
        f"{train}: {len(entries)} samples, mean {texts.mean():.0f} tokens of text, {answer:.0f} of the "
        f"answer ({method}), mean {lasting.mean():.1f} s; arithmetic means, micro-batches as the run draws them"
    )
    return Workload(
        len(entries), prompt, answer, float(lasting.mean()),
        math.ceil(longest), float(lasting.max()), padded, audios, held_out,
        clips * len(others.union(heard)), clips, source, notes,
    )  # fmt: skip


def _counted(cfg: Config, records: Sequence[PromptRecord]) -> tuple[list[tuple[float, float]], str]:
    """Return (prompt, answer) tokens of each record, uncut and without audio, and how they were counted."""
    if (tokenizer := _tokenizer(cfg)) is not None:
        name, loaded = tokenizer
        transcript = cfg.student.transcript or loaded.init_kwargs.get(TRANSCRIPT, AFTER_AUDIO)
        prompts = PromptEncoder(loaded, 1, transcripts=transcript == AFTER_AUDIO)
        encoded = [prompts.encode(record, positions=[1] * len(record["audios"])) for record in records]
        counts = [(len(e.prompt) - len(r["audios"]), len(e.answer)) for e, r in zip(encoded, records, strict=True)]
        return [(float(p), float(a)) for p, a in counts], f"tokenizer of {name}, over {len(records)} samples"
    counted = []
    for record in records:
        texts = [str(message["content"]) for message in record.get("messages") or []]
        texts += [entry.get("text") or "" for entry in record["audios"]]
        answer = len(str(record.get("response") or "").encode()) / 4
        counted.append((len("".join(texts).encode()) / 4, answer))
    return counted, "four bytes a token, no template: no tokenizer of our own family's prompts is there"


def _tokenizer(cfg: Config) -> tuple[str, Any] | None:
    """Load the tokenizer of the run, if it is in a folder and our own family uses it for prompts."""
    section = cfg.student
    for name in (section.tokenizer, cfg.teacher.path if cfg.teacher else None, section.path, section.llm):
        if isinstance(name, str) and (Path(name) / "tokenizer_config.json").is_file():
            kind = describe(name).kind if (Path(name) / "config.json").is_file() else SpeechLMConfig.model_type
            other = kind in supported() and kind != SpeechLMConfig.model_type
            return None if other else (name, load_tokenizer(name))
    return None


def _micro_batches(cfg: Config, ranks: int, texts: np.ndarray, audios: Sequence[str]) -> tuple[float, float, float]:
    """Return over the first micro-batches: mean of the longest text, mean share of different audios, longest text."""
    opt = cfg.optimizer
    if opt.batch_tokens is not None:  # sorted by length: nearly no padding
        return float(texts.mean()), 1.0, float(texts.max())
    _, accumulation = batch_shape(cfg, ranks)
    order = GlobalOrder(len(texts), opt.batch_size, cfg.run.seed, audios if cfg.data.group_by_audio else None)
    drawn = [batch for step in range(STEPS) for batch in order.micro_batches(step, ranks, 0, accumulation)]
    longest = [texts[batch].max() for batch in drawn]
    different = [len({audios[number] for number in batch}) / len(batch) for batch in drawn]
    return float(np.mean(longest)), float(np.mean(different)), float(np.max(longest))

"""`caad-ds evaluate`: answer a benchmark with a model, and score the answers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from pathlib import Path

import torch

from caad_ds.evaluation.asked_items import write_items
from caad_ds.evaluation.benchmarks.benchmark import PLAIN, Benchmark
from caad_ds.evaluation.benchmarks.benchmark_kinds import KINDS, PROMPTS, load, named
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.evaluation_identity import identity
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.result_kinds.result_kind import result_kind_of
from caad_ds.evaluation.scoring.bootstrap_scores import RULES as SCORED
from caad_ds.evaluation.scoring.confused_options import unseparated
from caad_ds.evaluation.scoring.judged_answers import judged
from caad_ds.evaluation.scoring.llm_judge import Judge
from caad_ds.evaluation.scoring.matching import RULES, VERSION, disagreement_counts, disagreements
from caad_ds.evaluation.speed.measure import Meter
from caad_ds.evaluation.tables_and_plots.confusions import confusions
from caad_ds.evaluation.tables_and_plots.tables import show_doubtful
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.decoding_settings import DTYPES, Decoding, check_choice, check_counts
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import Sampling
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from caad_ds.utils.launch import is_main
from caad_ds.utils.model_names import model_folder, run_name
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.ranks import agreed, from_main, gathered, joined, world


def evaluate(
    model: str | Path,
    benchmark: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    kind: str | None = None,
    limit: int | None = None,
    name: str | None = None,
    contrast_alpha: float | None = None,
    negative: str = "zero_mel",
    plausibility: float | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    max_new_tokens: int = 16,
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    judge_base_url: str | None = None,
    judge_model: str | None = None,
    judge_api_key_env: str | None = None,
    judge_concurrency: int = 8,
    alpha_gate: str = "none",
    gate_m: float = 2.0,
    prompt: str = PLAIN,
) -> dict:
    """Answer a benchmark with a model and score the answers, as `caad-ds evaluate` does.

    With several ranks, each answers its share of the batches, and rank 0 scores all answers.

    Args:
        model: folder of a model, or of the run that trained it, or a hub id.
        benchmark: a benchmark's folder or JSONL file, a description's YAML, or the name of a shipped one.
        out: run folder to write; a call with the same settings resumes it.
        data: folder of the files of a description; None: those of its hub ids.
        kind: kind of the benchmark; None: detected.
        limit: use only the first rows of each subset.
        name: name of the system in tables, shared by its seeds; None: that of the model.
        contrast_alpha: contrastive decoding with this alpha; None: without a contrast.
        negative: input of the second path: zero_mel, silence, noise, text_only or shuffled.
        plausibility: keep tokens with p >= plausibility * max p_pos (contrast only).
        temperature: sample from softmax(z / temperature); None: greedy.
        top_p: nucleus sampling with this cumulative probability.
        top_k: sample from the top_k likeliest tokens.
        seed: of the sampling; None: 0.
        max_new_tokens: maximum length of an answer.
        batch_size: items per batch.
        device: cpu, cuda, cuda:1, ...; None: cuda if there is one.
        dtype: of the model, float32 or bfloat16.
        judge_base_url: OpenAI-compatible endpoint of an LLM judge, with `judge_model`.
        judge_model: name of the judge model at that endpoint.
        judge_api_key_env: environment variable with the endpoint's API key.
        judge_concurrency: concurrent requests to the judge.
        alpha_gate: text_certainty (experimental) lowers alpha where the second path is unsure; none: constant alpha.
        gate_m: the gate's m: no contrast once the entropy reaches that of m equally likely tokens.
        prompt: how MCR-BENCH's descriptions precede its questions: plain, or wrapped as in a public runner.

    Returns:
        The contents of `scores.json` in `out` (docs/evaluation.md), on every rank; unusable rows are under `rejected`.

    Raises:
        UserError: a value is out of range, a path holds something else, or nothing could be evaluated.
    """
    decoding = Decoding(
        contrast_alpha, negative, plausibility, temperature, top_p, top_k, seed, max_new_tokens, alpha_gate, gate_m
    )
    check_counts(limit=limit, batch_size=batch_size, judge_concurrency=judge_concurrency)
    check_choice("--dtype", dtype, DTYPES)
    if kind is not None:
        check_choice("--kind", kind, [*KINDS])
    check_choice("--prompt", prompt, PROMPTS)
    model, path, folder = model_folder(model), named(benchmark), RunFolder(Path(out))
    files = None if data is None else existing(data)
    with joined(), ExitStack() as stack:
        from_main(lambda: stack.enter_context(sole_writer(folder.path.resolve())))
        judge = Judge.of(judge_base_url, judge_model, judge_api_key_env, judge_concurrency, folder.path)
        loaded_benchmark, loaded = agreed(
            lambda: (_read(path, kind, limit, files, prompt), _load(model, device, dtype))
        )
        with _on_main(waiting(f"hashing {model} and {path}")):
            sha256 = cache(Clip.sha256)
            setup = from_main(
                lambda: identity(model, loaded_benchmark, decoding, name=name, dtype=dtype, sha256=sha256)
            )
        earlier_speed = from_main(folder.speed)
        wanted = {(item.id, item.condition): item.subset for item in loaded_benchmark.items}
        done = from_main(lambda: folder.open(setup, wanted))
        meter = Meter(loaded, batch_size)
        others = _on_main(waiting("waiting for the other ranks"))
        own_doubtful: list[dict] = []
        title = f"evaluating {run_name(model)}"
        own_failed = agreed(
            lambda: _answer(loaded, loaded_benchmark, folder, done, meter, decoding, title, own_doubtful), others
        )
        failed = {row["id"]: row for rows in gathered(own_failed) for row in rows}  # ranks share a row's conditions
        doubtful = {row["id"]: row for rows in gathered(own_doubtful) for row in rows}
        from_main(lambda: _report_doubtful(folder, list(doubtful.values())))
        speed = meter.summary() or earlier_speed  # earlier: if this call had too few batches left
        return from_main(lambda: _score(setup, loaded_benchmark, folder, failed, judge, speed, sha256))


def _read(path: Path, kind: str | None, limit: int | None, data: Path | None, prompt: str) -> Benchmark:
    with _on_main(progress(f"reading {path}")):
        return load(path, kind, limit, data, prompt)


def _load(model: Path, device: str | None, dtype: str) -> Model:
    with _on_main(progress(f"loading {model}")):
        return Model.load(model, _device(device), dtype)


def _on_main(context: AbstractContextManager) -> AbstractContextManager:
    """Return a progress context on the main rank, and a silent one elsewhere."""
    return context if is_main() else nullcontext(lambda count: None)


def _device(name: str | None) -> torch.device:
    """Return the device of that name, by default the rank's own GPU."""
    if name is None and torch.cuda.is_available():
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return pick_device(name)


def _score(
    setup: dict, benchmark: Benchmark, folder: RunFolder, failed: dict[str, dict],
    judge: Judge | None, speed: dict | None, sha256: Callable[[Clip], str],
) -> dict:  # fmt: skip
    """Write scores and disagreements of all predictions; return the scores."""
    items, kind = benchmark.items, result_kind_of(setup)
    folder.merge([(item.id, item.condition) for item in items])
    write_items(folder.path, items)
    names = dict.fromkeys(item.id for item in items)
    rejected = benchmark.rejected + [failed[name] for name in names if name in failed]
    complete = not (benchmark.limited or rejected)
    with waiting("matching the answers"):
        folder.revise(judged(benchmark, sha256))
        predictions = folder.complete(benchmark.conditions)
        inseparable = unseparated(benchmark)
    if lost := names.keys() - {p["id"] for p in predictions} - failed.keys():
        raise UserError(
            f"{folder.path}: {len(lost)} of {len(names)} items have no answer; start the same command again"
        )
    if not predictions:
        reasons = [failed[name]["reason"] for name in names if name in failed]  # of rows that could be read
        raise UserError(f"no item could be evaluated ({(reasons or [rejected[0]['reason']])[0]}); fix the clips")
    rules: tuple[str, ...] = RULES
    if judge is not None:
        question = {item.id: item.question for item in items}
        verdicts = judge.verdicts((question[p["id"]], p["gt"], p["prediction"]) for p in predictions)
        predictions = [{**p, "judge": bool(verdict)} for p, verdict in zip(predictions, verdicts, strict=True)]
        rules = (*RULES, "judge")
    folder.write_disagreements(disagreements(predictions, rules))
    with waiting("scoring"):
        scores = {
            "name": setup["name"],
            "setup": setup,
            **({} if benchmark.asked is None else {"prompt": benchmark.asked}),
            "rejected": rejected,
            "limited": benchmark.limited,
            **kind.score([predictions], complete),
            "confusions": confusions(benchmark, predictions) if kind.by_option else {},
            "matching": VERSION,
            "definitions": kind.definitions,
            "inseparable": inseparable,
            "rules": {rule: sum(p[rule] for p in predictions) for rule in rules},
            "disagreements": disagreement_counts(predictions, rules),
            **{rule: kind.score([predictions], complete, rule) for rule in rules if rule not in SCORED},
        }
    if judge is not None:
        scores["judge"] |= {"model": judge.model, "unclear": verdicts.count(None)}
    scores["speed"] = speed
    folder.write_scores(scores)
    return scores


def _report_doubtful(folder: RunFolder, rows: list[dict]) -> None:
    """Print the rows with a doubtful clip; `doubtful.jsonl` lists all of an evaluation."""
    show_doubtful(folder.add_doubtful(rows), Path("doubtful.jsonl"))


def _answer(
    loaded: Model, benchmark: Benchmark, folder: RunFolder, done: set[tuple[str, str | None]], meter: Meter,
    decoding: Decoding, title: str, doubtful: list[dict],
) -> list[dict]:  # fmt: skip
    """Predict this rank's share of the remaining items; return `{id, reason}` of those that failed.

    Adds to `doubtful` the items with a clip that a rule finds unusable.
    """
    rank, ranks = world()
    remaining = [item for item in benchmark.items if (item.id, item.condition) not in done]
    share = list(_batches(remaining, meter.batch_size))[rank::ranks]
    total = sum(map(len, share)) + (len(done) if ranks == 1 else 0)
    clips = loaded.clips(benchmark.items)
    refused: dict[str, str] = {}
    contrasted, sampling = Contrast.of(decoding), Sampling.of(decoding)
    with _on_main(progress(title + (f", rank 0 of {ranks}" if ranks > 1 else ""), total)) as advance:
        advance(total - sum(map(len, share)))
        for batch in share:
            usable = clips.encode(loaded.askable(batch, decoding.max_new_tokens, refused))
            if usable:
                prompts = clips.prompts(usable)
                second = None if contrasted is None else clips.negative(usable, prompts, contrasted.negative)
                with meter.batch(len(usable)) as clock:
                    texts = decode(
                        loaded.lm, prompts, max_new_tokens=decoding.max_new_tokens, contrasted=contrasted,
                        negative=second, sampling=sampling, streamer=clock,
                    )  # fmt: skip
                predictions = [_prediction(i, text) for i, text in zip(usable, texts, strict=True)]
                folder.append(predictions, rank if ranks > 1 else None)
            advance(len(batch))
    doubtful += clips.doubted(item for batch in share for item in batch)
    failed = clips.rejected(item for batch in share for item in batch)
    return failed + [{"id": name, "reason": reason} for name, reason in refused.items()]


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _prediction(item: Item, text: str) -> dict:
    return {
        "id": item.id,
        "condition": item.condition,
        "subset": item.subset,
        "gt": item.gt,
        "prediction": text,
    }

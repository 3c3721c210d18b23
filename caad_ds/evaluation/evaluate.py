"""`caad-ds evaluate`: a model's answers to a benchmark, and their scores."""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from pathlib import Path

import torch

from caad_ds.evaluation.benchmarks.benchmark import Benchmark, load
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb_scores import (
    instances_notes,
    instances_rows,
    score_instances,
)
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.identity import identity, run_name
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.report.confusions import LEGEND as NAMED
from caad_ds.evaluation.report.confusions import confusions, on_terminal
from caad_ds.evaluation.report.mlflow_log import log_evaluation
from caad_ds.evaluation.report.tables import (
    LEGEND,
    NO_INTERVAL,
    SUBSET_LEGEND,
    percent,
    scores_rows,
    show,
    show_doubtful,
    show_rejected,
)
from caad_ds.evaluation.scoring.judged_answers import judged, unseparated, unseparated_notes
from caad_ds.evaluation.scoring.llm_judge import Judge
from caad_ds.evaluation.scoring.matching import RULES, VERSION, disagreement_counts, disagreements
from caad_ds.evaluation.scoring.scores import DEFINITIONS, score_groups
from caad_ds.evaluation.scoring.scores import RULES as SCORED
from caad_ds.evaluation.speed.figures import LEGEND as SPEED_LEGEND
from caad_ds.evaluation.speed.figures import speed_rows
from caad_ds.evaluation.speed.measure import Meter
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import Sampling
from caad_ds.models.negatives import Negative
from caad_ds.utils.command import ROWS_REJECTED, is_main
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.ranks import agreed, from_main, gathered, joined, world
from caad_ds.utils.terminal_table import Table


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the table; 3 if rows of the benchmark could not be used, else 0.

    Started as several ranks, each answers its share of the batches, and rank 0 scores them all.
    """
    with joined(), ExitStack() as held:
        from_main(lambda: held.enter_context(sole_writer(args.out.resolve())))
        folder = RunFolder(args.out)
        judge = Judge.of(args, folder.path)
        benchmark, loaded = agreed(lambda: _prepare(args))
        with _aloud(waiting(f"hashing {args.model} and {args.benchmark}")):
            sha256 = cache(Clip.sha256)
            setup = from_main(lambda: identity(args, benchmark, sha256))
        earlier_speed = from_main(folder.speed)
        wanted = [(item.id, item.condition) for item in benchmark.items]
        done = from_main(lambda: folder.open(setup, wanted))
        meter = Meter(loaded, args.batch_size)
        others = _aloud(waiting("waiting for the other ranks"))
        doubted: list[dict] = []
        failed = agreed(lambda: _answer(loaded, benchmark, folder, done, meter, args, doubted), others)
        unheard = {row["id"]: row for rows in gathered(failed) for row in rows}  # ranks share a row's conditions
        doubtful = {row["id"]: row for rows in gathered(doubted) for row in rows}
        from_main(lambda: _tell(folder, list(doubtful.values())))
        speed = meter.summary() or earlier_speed  # an earlier call's where this one had too few batches left
        return from_main(lambda: _score(args, setup, benchmark, folder, unheard, judge, speed, sha256))


def _prepare(args: argparse.Namespace) -> tuple[Benchmark, Model]:
    with _aloud(progress(f"reading {args.benchmark}")):
        benchmark = load(args.benchmark, args.kind, args.limit)
    with _aloud(progress(f"loading {args.model}")):
        return benchmark, Model.load(args.model, _device(args.device), args.dtype)


def _aloud(told: AbstractContextManager) -> AbstractContextManager:
    """What one rank tells for all."""
    return told if is_main() else nullcontext(lambda count: None)


def _device(name: str | None) -> torch.device:
    """The device of that name, by default the rank's own GPU."""
    if name is None and torch.cuda.is_available():
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return pick_device(name)


def _score(
    args: argparse.Namespace, setup: dict, benchmark: Benchmark, folder: RunFolder, unheard: dict[str, dict],
    judge: Judge | None, speed: dict | None, sha256: Callable[[Clip], str],
) -> int:  # fmt: skip
    """Writes and shows scores and disagreements of all predictions; the exit status."""
    items = benchmark.items
    folder.merge([(item.id, item.condition) for item in items])
    names = dict.fromkeys(item.id for item in items)
    rejected = benchmark.rejected + [unheard[name] for name in names if name in unheard]
    complete = not (benchmark.limited or rejected)
    with waiting("matching the answers"):
        folder.revise(judged(benchmark, sha256))
        predictions = folder.complete(benchmark.conditions)
        alike = unseparated(benchmark)
    if lost := names.keys() - {p["id"] for p in predictions} - unheard.keys():
        raise UserError(
            f"{folder.path}: {len(lost)} of {len(names)} items have no answer; start the same command again"
        )
    if not predictions:
        raise UserError(f"no item could be evaluated ({rejected[0]['reason']}); fix the clips")
    rules: tuple[str, ...] = RULES
    if judge is not None:
        question = {item.id: item.question for item in items}
        verdicts = judge.verdicts((question[p["id"]], p["gt"], p["prediction"]) for p in predictions)
        predictions = [{**p, "judge": bool(verdict)} for p, verdict in zip(predictions, verdicts, strict=True)]
        rules = (*RULES, "judge")
    differing = disagreements(predictions, rules)
    folder.write_disagreements(differing)
    with waiting("scoring"):
        scores = {
            "name": setup["name"],
            "setup": setup,
            "rejected": rejected,
            "limited": benchmark.limited,
            **_scored(benchmark.kind, predictions, complete),
            "confusions": confusions(benchmark, predictions) if benchmark.kind != DynamicSuperb.kind else {},
            "matching": VERSION,
            "definitions": DEFINITIONS if benchmark.kind != DynamicSuperb.kind else {},
            "inseparable": alike,
            "rules": {rule: sum(p[rule] for p in predictions) for rule in rules},
            "disagreements": disagreement_counts(predictions, rules),
            **{
                rule: _scored(benchmark.kind, [{**p, "right": p[rule]} for p in predictions], complete)
                for rule in rules
                if rule not in SCORED
            },
        }
    if judge is not None:
        scores["judge"] |= {"model": judge.model, "unclear": verdicts.count(None)}
    folder.write_scores({**scores, "speed": speed})
    table, notes = _shown(scores)
    title = f"{setup['name']}: percentages; 95% intervals over items"
    notes += [NO_INTERVAL, *unseparated_notes(alike)]
    show(Table(title, *table), *notes, _by_rule(scores, len(predictions), len(differing)))
    if scores["confusions"]:
        show(*on_terminal(scores["confusions"]), NAMED)
    if speed:
        show(Table("Size and speed", *speed_rows({setup["name"]: speed})), SPEED_LEGEND)
    show_rejected(rejected, folder.path / "scores.json")
    log_evaluation(args, folder.path, table)
    return ROWS_REJECTED if rejected else 0


def _tell(folder: RunFolder, found: list[dict]) -> None:
    """Names the rows that are asked about a doubtful clip; all of an evaluation are in `doubtful.jsonl`."""
    show_doubtful(folder.add_doubtful(found), Path("doubtful.jsonl"))


def _scored(kind: str, predictions: list[dict], complete: bool) -> dict:
    if kind == DynamicSuperb.kind:
        return score_instances([predictions], complete=complete)
    return {"groups": score_groups([predictions])}


def _shown(scores: dict) -> tuple[tuple[list[str], list[list[str]]], list[str]]:
    """Header and rows of the table, and what explains it."""
    if scores["setup"]["benchmark"] == DynamicSuperb.kind:
        return instances_rows(scores), instances_notes(scores)
    return scores_rows(scores["groups"]), [LEGEND, SUBSET_LEGEND]


def _by_rule(scores: dict, answers: int, differing: int) -> str:
    each = ", ".join(f"{rule} {percent(count / answers)}" for rule, count in scores["rules"].items())
    unclear = f" ({scores['judge']['unclear']} replies neither yes nor no)" if "judge" in scores else ""
    return f"{answers} answers by each rule, %: {each}{unclear}; the rules differ on {differing} (disagreements.jsonl)"


def _sampling(args: argparse.Namespace) -> Sampling | None:
    """How tokens are drawn, None for greedy search."""
    if args.temperature is None:
        return None
    return Sampling(args.temperature, args.top_p or 1.0, args.top_k, args.seed or 0)


def _answer(
    loaded: Model, benchmark: Benchmark, folder: RunFolder, done: set[tuple[str, str | None]], meter: Meter,
    args: argparse.Namespace, doubted: list[dict],
) -> list[dict]:  # fmt: skip
    """Predicts this rank's share of what is not done yet; returns the items that could not be heard or asked.

    To `doubted` it adds those that were asked about a clip that no rule of usable audio would keep.
    """
    rank, ranks = world()
    left = [item for item in benchmark.items if (item.id, item.condition) not in done]
    share = list(_batches(left, args.batch_size))[rank::ranks]
    whole = sum(map(len, share)) + (len(done) if ranks == 1 else 0)
    clips = Clips(loaded.encoder)
    refused: dict[str, str] = {}
    contrasted = None
    if args.contrast_alpha is not None:
        contrasted = Contrast(args.contrast_alpha, Negative.of(args.negative, loaded.encoder), args.plausibility)
    title = f"evaluating {run_name(args.model.resolve())}" + (f", rank 0 of {ranks}" if ranks > 1 else "")
    with _aloud(progress(title, whole)) as advance:
        advance(whole - sum(map(len, share)))
        for asked in share:
            heard = clips.hear(loaded.askable(asked, args.max_new_tokens, refused))
            if heard:
                prompts, states = loaded.prompts(heard), clips.states(heard)
                with meter.batch(len(heard)) as clock:
                    texts = decode(
                        loaded.model, loaded.tokenizer, prompts, states, max_new_tokens=args.max_new_tokens,
                        contrasted=contrasted, sampling=_sampling(args), streamer=clock,
                    )  # fmt: skip
                said = [_prediction(i, text) for i, text in zip(heard, texts, strict=True)]
                folder.append(said, rank if ranks > 1 else None)
            advance(len(asked))
    doubted += clips.doubted(item for asked in share for item in asked)
    unheard = clips.rejected(item for asked in share for item in asked)
    return unheard + [{"id": name, "reason": reason} for name, reason in refused.items()]


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

"""`caad-ds evaluate`: a model's answers to a benchmark, and their scores."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from caad_ds.command import positive
from caad_ds.device import pick_device
from caad_ds.distill.negatives import NEGATIVES, Negative
from caad_ds.errors import UserError
from caad_ds.evaluation.decoding import Contrast, Sampling, decode
from caad_ds.evaluation.inference import Clips, Loaded, add_model_arguments
from caad_ds.evaluation.matching import matches, matches_strictly
from caad_ds.evaluation.mcr_bench import Benchmark, Item, Row
from caad_ds.evaluation.meter import Meter
from caad_ds.evaluation.mlflow_log import add_mlflow_arguments, check_mlflow, log_evaluation
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scores import score_groups
from caad_ds.evaluation.speed import LEGEND as SPEED_LEGEND
from caad_ds.evaluation.speed import speed_rows
from caad_ds.evaluation.tables import (
    LEGEND,
    SUBSET_LEGEND,
    scores_rows,
    scores_table,
    show,
    show_rejected,
    terminal,
)
from caad_ds.progress import progress

ROWS_REJECTED = 3
MODEL_FILES = (
    *("config.json", "*.safetensors", "encoder/*"),
    *("*.model", "*.jinja", "*token*.json", "*vocab*", "merges.txt"),
)


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder; an interrupted run goes on")
    parser.add_argument("--name", help="the system's name in tables (default: the run folder's); seeds share one")
    parser.add_argument("--contrast-alpha", type=float, metavar="A", help="contrastive decoding with this alpha")
    parser.add_argument("--negative", choices=NEGATIVES, default="zero_mel", help="its second path (default zero_mel)")
    parser.add_argument("--plausibility", type=float, metavar="BETA", help="keep tokens with p >= BETA * max p_pos")
    parser.add_argument("--temperature", type=float, metavar="T", help="draw from softmax(z / T); greedy without it")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw of the likeliest tokens of this mass")
    parser.add_argument("--top-k", type=positive, metavar="K", help="draw of the K likeliest tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="of the draws (default 0)")
    parser.add_argument("--max-new-tokens", type=positive, default=16, metavar="N", help="per answer (default 16)")
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the table; 3 if rows of the benchmark could not be used, else 0."""
    _check(args)
    check_mlflow(args)
    device = pick_device(args.device)
    benchmark = Benchmark.load(args.benchmark, args.limit)
    with progress(f"loading {args.model}"):
        loaded = Loaded.load(args.model, device, args.dtype)
        setup = _setup(args, benchmark)
    folder = RunFolder(args.out)
    done = {(p["id"], p["condition"]) for p in folder.open(setup)}
    meter = Meter(loaded, args.batch_size)
    failed = _answer(loaded, benchmark, folder, done, meter, args)
    rejected = benchmark.rejected + failed
    predictions = folder.complete()
    if not predictions:
        raise UserError(f"{args.benchmark}: no item could be evaluated ({rejected[0]['reason']}); mend the clips")
    groups = score_groups([predictions])
    scores = {"name": setup["name"], "setup": setup, "rejected": rejected, "groups": groups}
    speed = _speed(meter, folder)
    folder.write_scores({**scores, "speed": speed})
    show(scores_table(setup["name"], groups), LEGEND, SUBSET_LEGEND)
    if speed:
        show(terminal("Size and speed", *speed_rows({setup["name"]: speed})), SPEED_LEGEND)
    show_rejected(rejected, folder.path / "scores.json")
    log_evaluation(args, folder.path, scores_rows(groups))
    return ROWS_REJECTED if rejected else 0


def _check(args: argparse.Namespace) -> None:
    if args.contrast_alpha is not None and not 0 <= args.contrast_alpha < float("inf"):
        raise UserError(f"--contrast-alpha {args.contrast_alpha}: give a finite number of at least 0")
    if args.plausibility is not None and not 0 < args.plausibility <= 1:
        raise UserError(f"--plausibility {args.plausibility}: give a number in (0, 1]")
    if args.plausibility is not None and args.contrast_alpha is None:
        raise UserError("--plausibility: belongs to contrastive decoding; give --contrast-alpha as well")
    if args.temperature is not None and not 0 < args.temperature < float("inf"):
        raise UserError(f"--temperature {args.temperature}: give a finite number above 0; leave it out for greedy")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: give a number in (0, 1]")
    given = [flag for flag in ("top_p", "top_k", "seed") if getattr(args, flag) is not None]
    if given and args.temperature is None:
        raise UserError(f"--{given[0].replace('_', '-')}: belongs to sampling; give --temperature as well")


def _setup(args: argparse.Namespace, benchmark: Benchmark) -> dict:
    """What decides the predictions; batch size and device do not."""
    contrasted = args.contrast_alpha is not None
    suffix = f" + CD {args.contrast_alpha:g} {args.negative}" if contrasted else ""
    return {
        "name": args.name or _run_name(args.model.resolve()) + suffix,
        "model_sha256": model_hash(args.model),
        "benchmark_sha256": _benchmark_hash(benchmark),
        "contrast_alpha": args.contrast_alpha,
        "negative": args.negative if contrasted else None,
        "plausibility": args.plausibility,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "dtype": args.dtype,
    }


def _sampling(args: argparse.Namespace) -> Sampling | None:
    """How tokens are drawn, None for greedy search."""
    if args.temperature is None:
        return None
    return Sampling(args.temperature, args.top_p or 1.0, args.top_k, args.seed or 0)


def _run_name(folder: Path) -> str:
    """What tables call a model: its folder's name; of `RUN/model`, which is where `train` writes it, the run's."""
    return folder.parent.name if folder.name == "model" else folder.name


def model_hash(folder: Path) -> str:
    """sha256 over the files that make a model folder's answers: configs, weights, tokenizer, encoder."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size};".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _benchmark_hash(benchmark: Benchmark) -> str:
    """sha256 over all that the model is asked; of the clips, their names and sizes."""

    def facts(row: Row) -> list:
        clip = [row.audio.name, row.audio.stat().st_size]
        return [row.id, row.question, row.hints, row.gt, row.transcription, clip]

    asked = json.dumps([[facts(row) for row in benchmark.rows], benchmark.options], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _answer(
    loaded: Loaded, benchmark: Benchmark, folder: RunFolder, done: set[tuple[str, str]], meter: Meter,
    args: argparse.Namespace,
) -> list[dict]:  # fmt: skip
    """Predicts what is not done yet and returns the rows whose clip could not be heard."""
    items = [item for row in benchmark.rows for item in row.items()]
    left = [item for item in items if (item.id, item.condition) not in done]
    clips = Clips(loaded.encoder)
    contrasted = None
    if args.contrast_alpha is not None:
        contrasted = Contrast(args.contrast_alpha, Negative.of(args.negative, loaded.encoder), args.plausibility)
    with progress(f"evaluating {args.model.name}", len(items)) as advance:
        advance(len(items) - len(left))
        for asked in _batches(left, args.batch_size):
            heard = clips.hear(asked)
            if heard:
                prompts, states = loaded.prompts(heard), clips.states(heard)
                with meter.batch(len(heard)) as clock:
                    texts = decode(
                        loaded.model, loaded.tokenizer, prompts, states, max_new_tokens=args.max_new_tokens,
                        contrasted=contrasted, sampling=_sampling(args), streamer=clock,
                    )  # fmt: skip
                folder.append([_prediction(i, text, benchmark) for i, text in zip(heard, texts, strict=True)])
            advance(len(asked))
    return clips.rejected(benchmark.rows)


def _speed(meter: Meter, folder: RunFolder) -> dict | None:
    """As this call measured it; where it had too few batches left for that, as an earlier one did."""
    finished_before = (folder.path / "scores.json").is_file()
    return meter.summary() or (folder.read_scores().get("speed") if finished_before else None)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _prediction(item: Item, text: str, benchmark: Benchmark) -> dict:
    return {
        "id": item.id,
        "condition": item.condition,
        "subset": item.subset,
        "gt": item.gt,
        "prediction": text,
        "right": matches(text, item.gt),
        "strict": matches_strictly(text, item.gt, benchmark.options[item.subset]),
    }

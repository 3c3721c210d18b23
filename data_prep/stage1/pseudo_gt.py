"""`prep pseudo-gt`: Stage 1, the answers that anchor both teacher paths and the student (CAAD, pseudo ground truth)."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from caad_ds.config.template_arguments import add_template_arguments
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, write_atomic, write_json
from caad_ds.utils.journal import same_settings
from caad_ds.utils.paths import check_hub_or_folder, model_folder
from caad_ds.utils.progress import progress, track, waiting
from data_prep.common.array_part import Part
from data_prep.common.journal import journal_path, step_journal
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, manifest_hash, read_manifest, write_manifest
from data_prep.common.rejects import Rejects
from data_prep.stage1.answer_checks import CHECKS, DEFAULT, AnswerChecks
from data_prep.stage1.answer_table import AnswerTable, prompt_or_none
from data_prep.stage1.answers import CHECK, ENGINE, Answers, RejectedAnswer
from data_prep.stage1.engines import Answer, Engine, own_engine, vllm
from data_prep.stage1.engines.local import WINDOW, default_dtype
from data_prep.stage1.engines.openai import KEY_VARIABLE, OpenAIEngine
from data_prep.stage1.engines.settings import SYSTEM, GenerationSettings
from data_prep.stage1.engines.template import TemplateEngine
from data_prep.stage1.engines.transformers import TransformersEngine
from data_prep.stage1.output import Output

ENGINES = ("template", "transformers", "vllm", "openai", "speech")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep describe` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    engine: Any = parser.add_argument(
        "--engine",
        type=_engine_name,
        required=True,
        metavar="NAME",
        help=f"one of {', '.join(ENGINES)}, or package.module of your own; speech: a trained SpeechLM answers from the "
        "audio; the others answer from the seed description",
    )
    engine.completer = lambda **_: ENGINES  # read by argcomplete
    parser.add_argument("--shard", type=Part.parse, metavar="I/N", help="answer part I of N; `prep merge` joins them")
    llm = parser.add_argument_group("the model and its answers")
    llm.add_argument(
        "--model",
        metavar="ID",
        help="hub id or folder of an instruct model, or its name on the server; for speech the SpeechLM's folder",
    )
    llm.add_argument(
        "--system",
        metavar="TEXT",
        help="system prompt ('' is none); default, for questions about attributes: one sentence from the description",
    )
    add_template_arguments(llm, " (not for speech)")
    llm.add_argument(
        "--max-new-tokens",
        type=positive,
        default=128,
        help="longer answers are rejected (default %(default)s, for descriptions; attributes alone need 32)",
    )
    llm.add_argument("--temperature", type=_at_least_0, default=0.0, help="0, the default, is greedy")
    llm.add_argument("--top-p", type=_share, default=1.0, help="draw from this share of the probability (default 1)")
    llm.add_argument("--seed", type=int, default=0, help="each record draws from this and its id (default %(default)s)")
    llm.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="", help="default: float32 on a cpu, else bfloat16"
    )
    llm.add_argument("--batch-size", type=positive, default=8, help="transformers, speech (default %(default)s)")
    llm.add_argument("--device", default="", help="transformers, speech; default: cuda where there is one, else cpu")
    llm.add_argument("--tensor-parallel-size", type=positive, default=1, help="vllm: GPUs that share the model")
    server = parser.add_argument_group("the server of --engine openai")
    server.add_argument("--base-url", metavar="URL", help="such as http://127.0.0.1:8000/v1")
    server.add_argument(
        "--api-key-env", metavar="NAME", default=KEY_VARIABLE, help="variable that holds the key (default %(default)s)"
    )
    server.add_argument("--concurrency", type=positive, default=8, help="requests under way (default %(default)s)")
    server.add_argument("--retries", type=_count, default=8, help="of a request that failed (default %(default)s)")
    server.add_argument("--timeout", type=_seconds, default=120.0, help="seconds of a request (default %(default)s)")
    checks = parser.add_argument_group("which answers are rejected")
    checks.add_argument("--checks", type=Path, default=DEFAULT, metavar="FILE", help="YAML: rule -> patterns")
    checks.add_argument("--max-words", type=positive, metavar="N", help="reject longer answers")


def run(args: argparse.Namespace) -> int:
    """Answer every record that has no response yet; an interrupted run resumes where it stopped.

    An output that is finished is judged anew where only the checks are others; that asks no engine.
    """
    out = args.shard.path(args.out) if args.shard else args.out
    for path in (args.out, out):
        check_output(path, args.manifest)
    checks = AnswerChecks(args.checks, args.max_words)
    settings = _settings(args)
    merged, before = args.shard and finished(args.out, settings), finished(out, settings)
    if settings | checks.settings in (merged, before):
        journal_path(out).unlink(missing_ok=True)
        print(f"{out}: finished before, left alone")
        return 0
    if merged:
        raise UserError(
            f"{args.out}: it is merged; leave out --shard to judge it by other checks, which asks no engine"
        )
    part, block = args.shard or Part(0, 1), settings["block"]

    def blocks() -> Iterator[list[dict | Rejected]]:
        return part.take(in_blocks(read_manifest(args.manifest), block))

    with step_journal(out, settings) as journal:
        with waiting(f"reading {args.manifest}"):
            answers = Answers(journal)
            if before:
                reopen(out, chain.from_iterable(blocks()), answers)
            missing = sum(record["id"] not in answers for record in chain.from_iterable(unanswered(blocks())))
        if missing:
            answer_all(_engine(args), unanswered(blocks()), answers, missing)
        table = AnswerTable()
        with Rejects(out) as rejects, waiting(f"writing {out}"):
            joined = join(chain.from_iterable(blocks()), answers, checks, table)
            count = write_manifest(out, rejects.sift(joined))
        table.show(out)
        if not count and not args.shard:
            raise UserError(f"{args.manifest}: no record was answered{rejects.why}")
        if not count:
            write_atomic(out, b"")  # other parts may hold answers
        table.save(out)
        write_json(stamp_path(out), settings | checks.settings)
        journal.remove()
    print(f"{out}: {count} answered{summary(rejects, table)}")
    return 0


def in_blocks(items: Iterable[dict | Rejected], size: int) -> Iterator[list[dict | Rejected]]:
    """The items of a manifest, `size` neighbours at a time."""
    items = iter(items)
    while block := list(islice(items, size)):
        yield block


def unanswered(blocks: Iterable[list[dict | Rejected]]) -> Iterator[list[dict]]:
    """The records of each block that come without a response."""
    for block in blocks:
        yield [item for item in block if isinstance(item, dict) and not item.get("response")]


def answer_all(engine: Engine, blocks: Iterable[list[dict]], answers: Answers, missing: int) -> None:
    """Add the answers that are missing, each as it comes."""
    for answer in track(engine.answers(blocks, answers), "pseudo ground truth", missing):
        answers.add(answer)


def join(
    items: Iterable[dict | Rejected], answers: Answers, checks: AnswerChecks, table: AnswerTable
) -> Iterator[dict | Rejected]:
    """The records with their responses, in the manifest's order; those without one that can be used as `Rejected`. Each
    is counted in the table."""
    for item in items:
        outcome = _outcome(item, answers, checks)
        table.add(item, outcome)
        yield outcome


def _outcome(item: dict | Rejected, answers: Answers, checks: AnswerChecks) -> dict | Rejected:
    if isinstance(item, Rejected):
        return Rejected(item.id, f"record: {item.reason}")
    if item.get("response"):
        return item
    answer = answers[item["id"]]
    if answer.reason and not answer.response:
        return Rejected(answer.id, answer.reason)
    if reason := answer.reason or checks.reason(answer.response):
        prompt = prompt_or_none(item)
        turns = [prompt.get("question", ""), *(turn["content"] for turn in item.get("messages") or [])]
        by = ENGINE if answer.reason else CHECK
        return RejectedAnswer(answer.id, reason, answer.response, turns[0] or turns[-1], prompt.get("label", ""), by)
    return {**item, "response": answer.response}


def reopen(out: Path, items: Iterable[dict | Rejected], answers: Answers) -> None:
    """Put the answers of a finished output back among `answers`, and take it for unfinished when all are there."""
    print(f"{out}: finished before; its answers are judged anew by other checks")
    stamp = stamp_path(out)
    output = Output(out, f"remove {stamp} to answer anew")
    for item in items:
        row = output.take(item)
        if isinstance(item, dict) and not item.get("response") and item["id"] not in answers:
            answers.add(_answer(row))
    output.end()
    stamp.unlink()


def _answer(row: dict | Rejected) -> Answer:
    if isinstance(row, dict):
        return Answer(row["id"], row["response"])
    if not isinstance(row, RejectedAnswer):
        return Answer(row.id, reason=row.reason)
    return Answer(row.id, row.response, row.reason if row.by == ENGINE else "")


def summary(rejects: Rejects, table: AnswerTable) -> str:
    """What to add to the last line: how many were rejected by each rule."""
    if not table.rules:
        return ""
    each = ", ".join(f"{count} {rule}" for rule, count in sorted(table.rules.items()))
    return f"; {rejects.count} rejected ({each}), see {rejects.path}"


def stamp_path(out: Path) -> Path:
    """Where the settings of a finished output lie."""
    return out.with_suffix(".settings.json")


def finished(out: Path, settings: dict) -> dict | None:
    """The settings of an output that is there, whole; UserError if they are others, among the checks where `settings`
    names them."""
    stamp = stamp_path(out)
    if not (out.exists() and stamp.exists()):
        return None
    made = read_json(stamp, f"remove it and {out} to answer anew")
    same_settings({name: made[name] for name in made if name not in CHECKS or name in settings}, settings, out)
    return made


def _settings(args: argparse.Namespace) -> dict:
    """What the answers depend on, as far as it is known; a server's address, a device and a number of processes are not
    part of it, so that a run may go on elsewhere."""
    block = getattr(own_engine(args.engine), "BLOCK", 1)
    settings = {"manifest_sha256": manifest_hash(args.manifest), "engine": args.engine, "block": block}
    if args.template_switch and args.engine in ("template", "speech"):
        raise UserError(f"--template-switch: --engine {args.engine} does not read it; remove it")
    if args.engine == "template":
        return settings
    system = SYSTEM if args.system is None and args.engine != "speech" else args.system
    settings |= _model(args) | {"system": system, "max_new_tokens": args.max_new_tokens}
    settings["temperature"] = args.temperature
    settings |= {"merge_system": True} if args.merge_system else {}
    settings |= {"template_switches": dict(args.template_switch)} if args.template_switch else {}
    if args.temperature:
        settings |= {"top_p": args.top_p, "seed": args.seed}
    if args.temperature and args.engine == "transformers":
        settings["sampling"] = "inverse CDF"  # runs whose settings lack this drew by Gumbel noise
    if args.engine == "openai" or own_engine(args.engine):
        return settings
    if args.engine == "vllm":
        vllm.prepare()
    with waiting("starting PyTorch"):
        settings["dtype"] = _dtype(args)
    if args.engine == "vllm":
        return settings | {"block": vllm.BLOCK}
    return settings | {"batch_size": args.batch_size, "block": WINDOW * args.batch_size}


def _dtype(args: argparse.Namespace) -> str:
    return args.dtype or default_dtype("" if args.engine == "vllm" else args.device)  # vLLM picks its device itself


def _model(args: argparse.Namespace) -> dict:
    """What is known of the model: its name, or the hash of a folder that training may have written anew."""
    kind = "folder of a trained SpeechLM" if args.engine == "speech" else "hub id, folder or name of an instruct model"
    if not args.model and own_engine(args.engine):
        return {}
    if not args.model:
        raise UserError(f"--engine {args.engine}: it needs --model, the {kind}")
    if args.engine != "speech":
        if args.engine in ("transformers", "vllm"):
            check_hub_or_folder(args.model, "causal LM")
        return {"model": args.model}
    args.model = str(model_folder(args.model))
    with waiting(f"hashing {args.model}"):
        from caad_ds.models.folder_hash import model_hash  # it imports PyTorch

        return {"model_sha256": model_hash(Path(args.model))}


def _engine(args: argparse.Namespace) -> Engine:
    if args.engine == "template":
        return TemplateEngine()
    asking = GenerationSettings(
        args.system,
        args.max_new_tokens,
        args.temperature,
        args.top_p,
        args.seed,
        args.merge_system,
        dict(args.template_switch),
    )
    if own := own_engine(args.engine):
        with waiting(f"loading {args.engine}"):
            return own.load(args.model, asking)
    if args.engine == "openai":
        return OpenAIEngine(
            args.model,
            asking,
            base_url=args.base_url or "",
            key_variable=args.api_key_env,
            concurrency=args.concurrency,
            retries=args.retries,
            timeout=args.timeout,
        )
    with progress(f"loading {args.model}"):
        if args.engine == "vllm":
            return vllm.VllmEngine(
                args.model, asking, dtype=_dtype(args), tensor_parallel_size=args.tensor_parallel_size
            )
        local = {"batch_size": args.batch_size, "device": args.device, "dtype": args.dtype}
        if args.engine == "speech":
            from data_prep.stage1.engines.speech import SpeechEngine  # it imports PyTorch

            return SpeechEngine(Path(args.model), asking, **local)
        return TransformersEngine(args.model, asking, **local)


def _engine_name(text: str) -> str:
    if text not in ENGINES and "." not in text:
        raise argparse.ArgumentTypeError(
            f"there is no {text!r}; take one of {', '.join(ENGINES)}, or package.module of your own"
        )
    return text


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _seconds(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return value


def _at_least_0(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below 0 or no number")
    return value


def _share(text: str) -> float:
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value

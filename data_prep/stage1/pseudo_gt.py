"""`prep pseudo-gt`: generate the answers that both teacher passes and the student are run on (CAAD, Stage 1)."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from caad_ds.config.template_arguments import add_template_arguments
from caad_ds.data.record import Record
from caad_ds.utils.array_task import Part
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.progress import track, waiting
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, manifest_hash, read_manifest, write_manifest
from data_prep.common.rejects import Rejects
from data_prep.common.step_journal import journal_path, settings_path, step_journal
from data_prep.stage1.answer_checks import DEFAULT, AnswerChecks
from data_prep.stage1.answer_table import AnswerTable, prompt_or_none
from data_prep.stage1.answers import CHECK, ENGINE, Answers, RejectedAnswer
from data_prep.stage1.engines import ENGINES, Answer, Engine, find
from data_prep.stage1.engines.engine_options import EngineOptions, Server
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.output import Output, finished, summary


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep describe` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    engine: Any = parser.add_argument(
        "--engine",
        type=_engine_name,
        required=True,
        metavar="NAME",
        help=f"one of {', '.join(ENGINES)}, or package.module of your own; speech: an audio LM answers from the audio; "
        "the others answer from the seed description",
    )
    engine.completer = lambda **_: ENGINES  # read by argcomplete
    parser.add_argument("--shard", type=Part.parse, metavar="I/N", help="answer part I of N; `prep merge` joins them")
    llm = parser.add_argument_group("the model and its answers")
    llm.add_argument(
        "--model",
        metavar="ID",
        help="hub id or folder of an instruct model, or its name on the server; for speech an audio LM's",
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
        default=GenerationSettings.max_new_tokens,
        help="longer answers are rejected (default %(default)s, for descriptions; attributes alone need 32)",
    )
    llm.add_argument("--temperature", type=_at_least_0, default=0.0, help="0, the default, is greedy")
    llm.add_argument(
        "--top-p", type=_share, default=1.0, help="nucleus sampling with cumulative probability P (default 1)"
    )
    llm.add_argument("--seed", type=int, default=0, help="each record draws from this and its id (default %(default)s)")
    llm.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="", help="default: float32 on a cpu, else bfloat16"
    )
    llm.add_argument(
        "--batch-size",
        type=positive,
        default=EngineOptions.batch_size,
        help="transformers, speech (default %(default)s)",
    )
    llm.add_argument("--device", default="", help="transformers, speech; default: cuda where there is one, else cpu")
    llm.add_argument("--tensor-parallel-size", type=positive, default=1, help="vllm: GPUs that share the model")
    server = parser.add_argument_group("the server of --engine openai")
    server.add_argument("--base-url", metavar="URL", help="such as http://127.0.0.1:8000/v1")
    server.add_argument(
        "--api-key-env",
        metavar="NAME",
        default=Server.key_variable,
        help="environment variable with the API key (default %(default)s)",
    )
    server.add_argument(
        "--concurrency", type=positive, default=Server.concurrency, help="concurrent requests (default %(default)s)"
    )
    server.add_argument(
        "--retries", type=_count, default=Server.retries, help="retries of a failed request (default %(default)s)"
    )
    server.add_argument(
        "--timeout",
        type=_seconds,
        default=Server.timeout,
        help="timeout of a request, in seconds (default %(default)s)",
    )
    checks = parser.add_argument_group("which answers are rejected")
    checks.add_argument("--checks", type=Path, default=DEFAULT, metavar="FILE", help="YAML: rule -> patterns")
    checks.add_argument("--max-words", type=positive, metavar="N", help="reject longer answers")


def run(args: argparse.Namespace) -> int:
    """Answer the manifest; returns the exit status."""
    options = EngineOptions(
        model=args.model,
        generation=GenerationSettings(
            system=args.system,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            seed=args.seed,
            merge_system=args.merge_system,
            switches=dict(args.template_switch),
        ),
        dtype=args.dtype,
        batch_size=args.batch_size,
        device=args.device,
        tensor_parallel_size=args.tensor_parallel_size,
        server=Server(args.base_url or "", args.api_key_env, args.concurrency, args.retries, args.timeout),
    )
    checks = AnswerChecks(args.checks, args.max_words)
    answer_manifest(args.manifest, args.out, args.engine, options, checks, args.shard)
    return 0


def answer_manifest(
    manifest: Path, out: Path, engine: str, options: EngineOptions, checks: AnswerChecks, part: Part | None = None
) -> None:
    """Answer every record that has no response yet; an interrupted run resumes where it stopped.

    `engine` is one of `ENGINES` or `package.module`; the output of a `part` is written beside `out`. If only the checks
    differ, a finished output is checked again without running the engine. UserError if no record was answered.
    """
    whole, out = out, part.path(out) if part else out
    for path in (whole, out):
        check_output(path, manifest)
    prepare = find(engine)
    settings: dict[str, Any] = {"manifest_sha256": manifest_hash(manifest), "engine": engine}
    prepared = prepare(options)
    settings |= {"block": prepared.block, **prepared.settings}
    merged, before = part and finished(whole, settings), finished(out, settings)
    if settings | checks.settings in (merged, before):
        journal_path(out).unlink(missing_ok=True)
        print(f"{out}: already finished, nothing to do")
        return
    if merged:
        raise UserError(
            f"{whole}: already merged; to apply other checks, run without --shard (the engine is not called)"
        )

    def blocks() -> Iterator[list[Record | Rejected]]:
        return (part or Part(0, 1)).take(in_blocks(read_manifest(manifest), prepared.block))

    with step_journal(out, settings) as journal:
        with waiting(f"reading {manifest}"):
            answers = Answers(journal)
            if before:
                reopen(out, chain.from_iterable(blocks()), answers)
            missing = sum(record["id"] not in answers for record in chain.from_iterable(unanswered(blocks())))
        if missing:
            answer_all(prepared.load(), unanswered(blocks()), answers, missing)
        table = AnswerTable()
        with Rejects(out) as rejects, waiting(f"writing {out}"):
            joined = join(chain.from_iterable(blocks()), answers, checks, table)
            count = write_manifest(out, rejects.sift(joined))
        table.show(out)
        if not count and not part:
            raise UserError(f"{manifest}: no record was answered{rejects.why}")
        if not count:
            write_atomic(out, b"")  # other parts may hold answers
        table.save(out)
        write_json(settings_path(out), settings | checks.settings)
        journal.remove()
    print(f"{out}: {count} answered{summary(rejects, table)}")


def in_blocks(items: Iterable[Record | Rejected], size: int) -> Iterator[list[Record | Rejected]]:
    """Yield the items of a manifest in blocks of `size` consecutive ones."""
    items = iter(items)
    while block := list(islice(items, size)):
        yield block


def unanswered(blocks: Iterable[list[Record | Rejected]]) -> Iterator[list[Record]]:
    """Yield the records of each block that have no response."""
    for block in blocks:
        yield [item for item in block if not isinstance(item, Rejected) and not item.get("response")]


def answer_all(engine: Engine, blocks: Iterable[list[Record]], answers: Answers, missing: int) -> None:
    """Generate the missing answers and store each as it comes."""
    for answer in track(engine.answers(blocks, answers), "pseudo ground truth", missing):
        answers.add(answer)


def join(
    items: Iterable[Record | Rejected], answers: Answers, checks: AnswerChecks, table: AnswerTable
) -> Iterator[Record | Rejected]:
    """Yield the records with their responses in the manifest's order, `Rejected` for those without a usable one.

    Each is counted in the table.
    """
    for item in items:
        outcome = _outcome(item, answers, checks)
        table.add(item, outcome)
        yield outcome


def _outcome(item: Record | Rejected, answers: Answers, checks: AnswerChecks) -> Record | Rejected:
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


def reopen(out: Path, items: Iterable[Record | Rejected], answers: Answers) -> None:
    """Put the answers of a finished output back into `answers`, then mark the output as unfinished."""
    print(f"{out}: already finished; applying other checks to its answers")
    stamp = settings_path(out)
    output = Output(out, f"remove {stamp} to answer again")
    for item in items:
        row = output.take(item)
        if not isinstance(item, Rejected) and not item.get("response") and item["id"] not in answers:
            answers.add(_answer(row))
    output.end()
    stamp.unlink()


def _answer(row: Record | Rejected) -> Answer:
    if not isinstance(row, Rejected):
        return Answer(row["id"], row.get("response") or "")
    if not isinstance(row, RejectedAnswer):
        return Answer(row.id, reason=row.reason)
    return Answer(row.id, row.response, row.reason if row.by == ENGINE else "")


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

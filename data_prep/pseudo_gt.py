"""`prep pseudo-gt`: Stage 1, the answers that anchor both teacher paths and the student (CAAD, pseudo ground truth)."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from caad_ds.command import positive
from caad_ds.errors import UserError
from caad_ds.files import disk_errors, drop_cut_line, read_json, write_json
from caad_ds.progress import progress, track
from data_prep.engines import Answer, Engine, TemplateEngine, TransformersEngine
from data_prep.journal import same_settings
from data_prep.jsonl import Rejected, read_jsonl, to_line, write_jsonl
from data_prep.manifest import load_manifest, write_manifest
from data_prep.rejects import Rejects


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep describe` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--engine", choices=("template", "transformers"), required=True)
    parser.add_argument("--model", metavar="ID", help="hub id or folder of an instruct model (transformers)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt (transformers)")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=128, help="longer answers are rejected (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--device", default="", help="default: cuda where there is one, else cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="", help="default: float32 on a cpu, else bfloat16"
    )


def run(args: argparse.Namespace) -> int:
    """Answer every record that has no response yet; a run that was cut off goes on where it stopped."""
    records = load_manifest(args.manifest)
    settings = _settings(args)
    partial, stamp = args.out.with_suffix(".partial.jsonl"), args.out.with_suffix(".settings.json")
    if args.out.exists() and stamp.exists():
        same_settings(read_json(stamp, f"remove it and {args.out} to answer anew"), settings, args.out)
        print(f"{args.out}: finished before, left alone")
        return 0
    answers = resume(partial, settings)
    missing = [record for record in records if not record.get("response") and record["id"] not in answers]
    if missing:
        answer_all(_engine(args), missing, partial, answers)
    with Rejects(args.out) as rejects:
        count = write_manifest(args.out, rejects.sift(_join(records, answers)))
    if not count:
        raise UserError(f"{args.manifest}: no record was answered{rejects.why}")
    write_json(stamp, settings)
    partial.unlink()
    print(f"{args.out}: {count} answered{rejects.summary}")
    return 0


def resume(partial: Path, settings: dict) -> dict[str, Answer]:
    """The answers by id that a run with the same settings left in `partial`, which is made ready for more.

    Its first line holds the settings. A last line that was cut short is dropped; other settings and any other broken
    line raise UserError.
    """
    if partial.exists():
        drop_cut_line(partial)
    rows = list(read_jsonl(partial)) if partial.exists() else []
    if len(rows) < 2:
        write_jsonl(partial, [settings])
        return {}
    same_settings(rows[0][1], settings, partial)
    answers = [_answer(row, f"{partial} line {number}") for number, row in rows[1:]]
    print(f"{partial}: going on after {len(answers)} answers")
    return {answer.id: answer for answer in answers}


def answer_all(engine: Engine, records: list[dict], partial: Path, answers: dict[str, Answer]) -> None:
    """Answer the records, appending each answer to `partial` as it comes and adding it to `answers`."""
    with disk_errors(partial.parent), open(partial, "a", encoding="utf-8") as out:
        for answer in track(engine.answers(records), "pseudo ground truth", len(records)):
            out.write(to_line(vars(answer)))
            out.flush()
            answers[answer.id] = answer


def _join(records: list[dict], answers: dict[str, Answer]) -> Iterator[dict | Rejected]:
    for record in records:
        answer = Answer(record["id"], record["response"]) if record.get("response") else answers[record["id"]]
        yield Rejected(answer.id, answer.reason) if answer.reason else {**record, "response": answer.response}


def _settings(args: argparse.Namespace) -> dict:
    """What the answers depend on."""
    manifest = hashlib.sha256(args.manifest.read_bytes()).hexdigest()
    settings = {"manifest_sha256": manifest, "engine": args.engine}
    if args.engine == "transformers":
        settings |= {"model": args.model, "system": args.system, "max_new_tokens": args.max_new_tokens}
        settings |= {"dtype": args.dtype} if args.dtype else {}
    return settings


def _engine(args: argparse.Namespace) -> Engine:
    if args.engine == "template":
        return TemplateEngine()
    if not args.model:
        raise UserError("--engine transformers: it needs --model, the hub id or folder of an instruct model")
    with progress(f"loading {args.model}"):
        return TransformersEngine(
            args.model,
            system=args.system,
            max_new_tokens=args.max_new_tokens,
            batch_size=args.batch_size,
            device=args.device,
            dtype=args.dtype,
        )


def _answer(row: dict, where: str) -> Answer:
    try:
        return TypeAdapter(Answer).validate_python(row)
    except ValidationError as error:
        raise UserError(f"{where}: no answer of Stage 1; remove that line, and its record is answered anew") from error

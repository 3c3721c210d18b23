"""`prep describe`: write a seed description and an instruction from a record's attributes (CAAD, Stage 1)."""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

from caad_ds.data.audio_markers import user_content
from caad_ds.data.instructions import ATTRIBUTE, Instructions
from caad_ds.data.record import Audio, Message, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, read_manifest, write_manifest
from data_prep.common.metadata_columns import Columns, first
from data_prep.common.prompt_metadata import OPTIONS, PROMPT, prompt_of
from data_prep.common.questions_and_hints import CONDITIONS, Ask, Prompt, ask, hint
from data_prep.common.rejects import Rejects

# As in examples/recorded, where CAAD lowered the shift with these shares (docs/results/recorded_speech.md). Half of the
# prompts have no hint: if hints were always there and nearly always right, the model would not learn to use the audio.
# False hints teach it to prefer the audio to a text that contradicts it.
HINTS = "none=0.5,faithful=0.4,adversarial=0.05,irrelevant=0.05"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep ingest` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--instructions", type=Path, required=True, help="YAML with questions, options, statements")
    parser.add_argument("--attributes", nargs="+", metavar="NAME", help="ask only about these (default: all)")
    parser.add_argument(
        "--hints",
        default=HINTS,
        metavar="CONDITION=SHARE,...",
        help=f"how often a hint goes with the question; conditions {', '.join(CONDITIONS)} (default %(default)s); "
        "none=1 for no hints",
    )
    parser.add_argument("--questions-per-audio", type=int, default=1, metavar="N", help="above 1, ids get a suffix")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Describe the manifest; returns the exit status."""
    describe_manifest(
        args.manifest, args.out, args.instructions, args.attributes, args.hints, args.questions_per_audio, args.seed
    )
    return 0


def describe_manifest(
    manifest: Path,
    out: Path,
    instructions: Path,
    attributes: Sequence[str] | None = None,
    hints: str = HINTS,
    questions: int = 1,
    seed: int = 0,
) -> None:
    """Write the described manifest and the list of rejected records; print the number of prompts per right label.

    The options are the command's: `attributes` None asks about all, `hints` is CONDITION=SHARE,....
    """
    if questions < 1:
        raise UserError(f"--questions-per-audio {questions}: at least one question is needed")
    check_output(out, manifest)
    shares = parse_hints(hints)
    known = Instructions.load(instructions, attributes)
    columns, labels = Columns(), Counter[tuple[str, str]]()
    with Rejects(out) as rejects:
        records = columns.watch(rejects.sift(read_manifest(manifest, "describe")))
        prompts = (_prompts(record, known, shares, questions, seed) for record in records)
        count = write_manifest(out, _counted(rejects.sift(chain.from_iterable(prompts)), labels))
    absent = [columns.describe(key) for key in known.attributes if key not in columns]
    if not count:
        names = ", ".join(absent) if absent else ", ".join(known.attributes)
        raise UserError(f"{manifest}: nothing to ask with {instructions} ({names}){rejects.why}")
    rejects.report()
    for key, attribute in known.attributes.items():
        label_counts = _labels({label: labels[key, label] for label in attribute.options})
        print(f"{key}: {label_counts if key in columns else f'no prompt, {columns.describe(key)}'}")
    print(f"{out}: {counted(count, 'prompt')}{rejects.summary}")


def _counted(rows: Iterable[Record], labels: Counter[tuple[str, str]]) -> Iterator[Record]:
    """Yield the rows; count them in `labels` by attribute and right label."""
    for row in rows:
        prompt = prompt_of(row)
        if "label" in prompt:
            labels[prompt["attribute"], prompt["label"]] += 1
        yield row


def _labels(counts: dict[str, int]) -> str:
    """List the number of prompts by right label, and the labels without any."""
    labels = [f"{label} {count}" for label, count in Counter(counts).most_common() if count]
    absent = [label for label, count in counts.items() if not count]
    text = first(labels) if labels else "no prompt"
    return text + (f"; no prompt for {first(absent)}" if labels and absent else "")


def _prompts(
    record: Record, instructions: Instructions, hints: dict[str, float], questions: int, seed: int
) -> list[Record | Rejected]:
    try:
        rows = describe(record, instructions, hints, questions, seed)
    except UserError as error:
        return [Rejected(record["id"], str(error))]
    if rows:
        return [*rows]
    return [
        Rejected(record["id"], "there is nothing to ask: its metadata holds none of the attributes, and no prompt fits")
    ]


def describe(
    record: Record, instructions: Instructions, hints: dict[str, float], questions: int, seed: int
) -> list[Record]:
    """Return the record with its seed description, one copy per question; [] if nothing can be asked.

    A pure function of (record, seed). A repeated prompt is dropped, so there may be fewer than `questions`. The
    metadata gets `prompt` (data_prep/common/prompt_metadata.py); UserError if the user has that key. A record with its
    own messages keeps them.
    """
    prompt_of(record)
    seeded = record.get("seed_description") or seed_description(record, instructions)
    described: Record = {**record, "seed_description": seeded}
    if record.get("messages"):
        return [described]
    rng = Random(f"{seed}/{record['id']}")
    rows: list[Record] = []
    contents: set[str] = set()
    for number, question in enumerate(islice(_questions(record, instructions, rng), questions)):
        attribute_question = question if isinstance(question, Ask) else None
        condition = rng.choices(list(hints), list(hints.values()))[0] if attribute_question else "none"
        claim = hint(instructions, attribute_question, condition, rng) if attribute_question else None
        content = user_content(question.question, claim, len(record["audios"]))
        if content in contents:  # all attributes were asked; a duplicate prompt would be a fault of the shards
            continue
        contents.add(content)
        row: Record = {**described, "messages": [_turn(content)]}
        prompt = {**vars(question), "condition": condition}
        if attribute_question:
            prompt[OPTIONS] = list(instructions.attributes[attribute_question.attribute].options)
        row["metadata"] = {**(record.get("metadata") or {}), PROMPT: prompt}
        if questions > 1:
            row["id"] = f"{record['id']}-q{number}"
        rows.append(row)
    return rows


def seed_description(record: Record, instructions: Instructions) -> str:
    """Return a line per audio: `[00:00-00:02] text (Gender: female, Speaking rate: fast)`, with the known attributes.

    Line breaks in a text or a value become spaces, since Stage 1 splits the description into lines.
    """
    values = ", ".join(f"{name}: {value}" for name, value in instructions.named(record))
    attributes = f" ({values})" if values else ""
    lines = (f"{_span(audio, record)} {audio.get('text') or ''}{attributes}" for audio in record["audios"])
    return "\n".join(" ".join(line.split()) for line in lines)


def parse_hints(text: str) -> dict[str, float]:
    """Parse `none=0.2,faithful=0.8`; UserError unless the conditions are known and their shares add up to 1."""
    try:
        shares = {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UserError(f"--hints {text}: write it as CONDITION=SHARE,..., such as none=0.2,faithful=0.8") from error
    unknown = [name for name in shares if name not in CONDITIONS]
    if unknown:
        raise UserError(f"--hints {text}: there is no condition {unknown[0]!r}; take {', '.join(CONDITIONS)}")
    if min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise UserError(f"--hints {text}: the shares add up to {sum(shares.values()):g}; make them add up to 1")
    return shares


def _questions(record: Record, instructions: Instructions, rng: Random) -> Iterator[Ask | Prompt]:
    """Draw questions by the kinds' shares: known attributes in random order, repeatedly; each other prompt once."""
    shares = instructions.shares(record)
    attributes = _rounds(instructions.known(record), rng)
    texts = {
        kind: rng.sample(instructions.prompts[kind].texts, len(instructions.prompts[kind].texts))
        for kind in shares
        if kind != ATTRIBUTE
    }
    while shares:
        kind = rng.choices(list(shares), list(shares.values()))[0] if instructions.prompts else ATTRIBUTE
        if kind == ATTRIBUTE:
            yield ask(instructions, record, next(attributes), rng)
        else:
            yield Prompt(kind, texts[kind].pop())
            if not texts[kind]:
                del shares[kind]


def _rounds(known: list[str], rng: Random) -> Iterator[str]:
    while known:
        yield from rng.sample(known, len(known))


def _turn(content: str) -> Message:
    return {"role": "user", "content": content}


def _span(audio: Audio, record: Record) -> str:
    if (duration := audio.get("duration")) is None:
        raise UserError(f"record {record['id']}: its audio has no duration; run `caad-ds prep ingest` first")
    minutes, seconds = divmod(math.ceil(duration), 60)
    return f"[00:00-{minutes:02d}:{seconds:02d}]"

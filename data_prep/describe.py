"""`prep describe`: from attributes to a seed description and an instruction (CAAD, Stage 1)."""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

from caad_ds.data.instructions import ATTRIBUTE, CONDITIONS, Ask, Instructions, Prompt, ask, hint
from caad_ds.data.markers import user_content
from caad_ds.data.record import Audio, Message, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.wording import counted
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, read_manifest, write_manifest
from data_prep.common.metadata_columns import Columns, first
from data_prep.common.prompt_metadata import OPTIONS, PROMPT, prompt_of
from data_prep.common.rejects import Rejects

# As in examples/recorded, where CAAD lowered the shift with these shares (docs/results/recorded_speech.md). Half of the
# prompts carry no hint: where one is there and nearly always right, the audio is not needed and not learned. The false
# ones teach what to do with a hint that contradicts the audio.
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
    """Write the described manifest, and beside it the records that hold no attribute to ask about; print how many
    prompts each label is the answer of.

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
    absent = [columns.tell(key) for key in known.attributes if key not in columns]
    if not count:
        names = ", ".join(absent) if absent else ", ".join(known.attributes)
        raise UserError(f"{manifest}: nothing to ask with {instructions} ({names}){rejects.why}")
    rejects.tell()
    for key, attribute in known.attributes.items():
        found = _labels({label: labels[key, label] for label in attribute.options})
        print(f"{key}: {found if key in columns else f'no prompt, {columns.tell(key)}'}")
    print(f"{out}: {counted(count, 'prompt')}{rejects.summary}")


def _counted(rows: Iterable[Record], labels: Counter[tuple[str, str]]) -> Iterator[Record]:
    """The rows; `labels` counts them by attribute and right label."""
    for row in rows:
        asked = prompt_of(row)
        if "label" in asked:
            labels[asked["attribute"], asked["label"]] += 1
        yield row


def _labels(counts: dict[str, int]) -> str:
    """How many prompts each label is the answer of, and the labels that no prompt teaches."""
    asked = [f"{label} {count}" for label, count in Counter(counts).most_common() if count]
    absent = [label for label, count in counts.items() if not count]
    found = first(asked) if asked else "no prompt"
    return found + (f"; no prompt for {first(absent)}" if asked and absent else "")


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
    """The record with its seed description, once per question asked about it; [] if nothing can be asked.

    A pure function of (record, seed). A prompt that comes up twice is written once, so there may be fewer than
    `questions`. The metadata gains `prompt` (data_prep/common/prompt_metadata.py); UserError if
    that key is the user's. A record that comes with messages of its own keeps them.
    """
    prompt_of(record)
    seeded = record.get("seed_description") or seed_description(record, instructions)
    described: Record = {**record, "seed_description": seeded}
    if record.get("messages"):
        return [described]
    rng = Random(f"{seed}/{record['id']}")
    rows: list[Record] = []
    contents: set[str] = set()
    for number, asked in enumerate(islice(_questions(record, instructions, rng), questions)):
        about = asked if isinstance(asked, Ask) else None
        condition = rng.choices(list(hints), list(hints.values()))[0] if about else "none"
        claim = hint(instructions, about, condition, rng) if about else None
        content = user_content(asked.question, claim, len(record["audios"]))
        if content in contents:  # attributes were used up; a prompt that is there twice is a fault of the shards
            continue
        contents.add(content)
        row: Record = {**described, "messages": [_turn(content)]}
        prompt = {**vars(asked), "condition": condition}
        if about:
            prompt[OPTIONS] = list(instructions.attributes[about.attribute].options)
        row["metadata"] = {**(record.get("metadata") or {}), PROMPT: prompt}
        if questions > 1:
            row["id"] = f"{record['id']}-q{number}"
        rows.append(row)
    return rows


def seed_description(record: Record, instructions: Instructions) -> str:
    """A line per audio: `[00:00-00:02] text (Gender: female, Speaking rate: fast)`, with what is known.

    Line breaks in a text or a value become spaces: Stage 1 takes the description apart by its lines.
    """
    values = ", ".join(f"{name}: {value}" for name, value in instructions.named(record))
    attributes = f" ({values})" if values else ""
    lines = (f"{_span(audio, record)} {audio.get('text') or ''}{attributes}" for audio in record["audios"])
    return "\n".join(" ".join(line.split()) for line in lines)


def parse_hints(text: str) -> dict[str, float]:
    """`none=0.2,faithful=0.8` as shares by condition; UserError unless they are known conditions that add up to 1."""
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
    """Questions of the kinds' shares: the known attributes in a random order, and again in another when they are used
    up; each other prompt once."""
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

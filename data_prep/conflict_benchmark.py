"""`prep conflict-benchmark`: held-out audio as a benchmark of text against audio, in MCR-BENCH's file format.

Format (arXiv 2508.15407): `<task>/<task>.json` beside `<task>/audio/`; here a task is an attribute.
"""

import argparse
import os
import shutil
from pathlib import Path
from random import Random

from caad_ds.data.audio import encode, to_pcm16
from caad_ds.data.instructions import Instructions, ask, hint
from caad_ds.errors import UserError
from caad_ds.files import disk_errors, write_atomic, write_json
from caad_ds.progress import track
from data_prep.entry import is_part, waveform
from data_prep.manifest import load_manifest


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--manifest", type=Path, required=True, help="what `prep ingest` wrote")
    parser.add_argument("--instructions", type=Path, required=True, help="YAML with questions, options, statements")
    parser.add_argument("--attributes", nargs="+", metavar="NAME", help="ask only about these (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per attribute")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write a task per attribute that at least one record holds."""
    instructions = Instructions.load(args.instructions, args.attributes)
    records = load_manifest(args.manifest)
    counts = {}
    for key in instructions.attributes:
        asked = [record for record in records if key in instructions.known(record)]
        # A corpus comes sorted; so that the first rows (--limit) stand for all, they come in no order here.
        Random(f"{args.seed}/{key}").shuffle(asked)
        if asked:
            write_task(args.out / key, asked, instructions, key, args.seed)
            counts[key] = len(asked)
    if not counts:
        raise UserError(f"{args.manifest}: no record has an attribute of {args.instructions}")
    print(f"{args.out}: " + ", ".join(f"{key} {count}" for key, count in counts.items()))
    return 0


def write_task(folder: Path, records: list[dict], instructions: Instructions, key: str, seed: int = 0) -> None:
    """Write `<folder>/<key>.json`, a list of rows, and the audio that they name.

    A row holds `audio` (relative to the folder), `text` (the transcription), `neutral` (the question), `gt` (the right
    option), and as descriptions `faithful`, `adversarial` and `irrelevant`. Audio is hard-linked where the file system
    can, otherwise copied.
    """
    rows = []
    for record in track(records, f"benchmark {key}", len(records)):
        if len(record["audios"]) != 1:
            raise UserError(f"record {record['id']}: it has {len(record['audios'])} audios; MCR-BENCH asks about one")
        audio = record["audios"][0]
        rng = Random(f"{seed}/{record['id']}/{key}")
        asked = ask(instructions, record, key, rng)
        hints = {name: hint(instructions, asked, name, rng) for name in ("faithful", "adversarial", "irrelevant")}
        name = _place(audio, folder / "audio", record["id"])
        rows.append(
            {"audio": name, "gt": asked.label, **hints, "neutral": asked.question, "text": audio.get("text", "")}
        )
    write_json(folder / f"{folder.name}.json", rows)


def _place(entry: dict, folder: Path, identity: str) -> str:
    audio = Path(entry["path"])
    target = folder / f"{identity.replace('/', '_')}{'.flac' if is_part(entry) else audio.suffix}"
    if is_part(entry):
        write_atomic(target, encode(to_pcm16(waveform(entry))))
        return f"{folder.name}/{target.name}"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(audio, target)
        except FileNotFoundError as error:
            raise UserError(f"record {identity}: its audio {audio} does not exist; ingest the corpus again") from error
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(audio, target)
    return f"{folder.name}/{target.name}"

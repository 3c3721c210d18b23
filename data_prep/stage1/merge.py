"""`prep merge`: merge the parts that `pseudo-gt --shard` wrote into the manifest that a single run would write."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from caad_ds.data.record import Record
from caad_ds.utils.array_task import Part
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, to_line, write_json, writing
from caad_ds.utils.formatting import counted
from caad_ds.utils.journal import changed_keys
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import manifest_hash, read_manifest
from data_prep.common.rejects import Rejects, rejected_path
from data_prep.common.step_journal import settings_path
from data_prep.stage1.answer_table import AnswerTable, table_path
from data_prep.stage1.output import Output, finished, summary


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--manifest", type=Path, required=True, help="manifest that was given to `prep pseudo-gt --shard`"
    )
    parser.add_argument("--out", type=Path, required=True, help="as it was given to `prep pseudo-gt --shard`")
    parser.add_argument("--remove-parts", action="store_true", help="remove the parts when they are merged")


def run(args: argparse.Namespace) -> int:
    """Merge the parts; returns the exit status."""
    merge(args.manifest, args.out, args.remove_parts)
    return 0


def merge(manifest: Path, out: Path, remove_parts: bool = False) -> None:
    """Merge the parts of `out`; all must be finished, with every record of the manifest exactly once."""
    parts = find_parts(out)
    settings = _settings(manifest, out, parts)
    if finished(out, settings):
        print(f"{out}: already merged, nothing to do")
    else:
        _complete(out, parts)
        _merge(manifest, out, parts, settings)
    if remove_parts:
        for part in parts:
            path = part.path(out)
            # The settings last: they mark a part as complete.
            for file in (path, rejected_path(path), table_path(path), settings_path(path)):
                file.unlink(missing_ok=True)


def find_parts(out: Path) -> list[Part]:
    """Find the finished parts of an output, in order; UserError if they belong to different divisions."""
    name = re.compile(re.escape(out.stem) + r"\.(\d{5})-of-(\d{5})\.settings\.json")
    found = [name.fullmatch(path.name) for path in sorted(out.parent.glob("*-of-*.settings.json"))]
    parts = [Part(int(match[1]), int(match[2])) for match in found if match]
    if len(counts := sorted({part.count for part in parts})) > 1:
        raise UserError(f"{out}: there are parts of {counts[0]} and of {counts[1]} shards; remove those of one kind")
    return parts


def _settings(manifest: Path, out: Path, parts: list[Part]) -> dict:
    """Return the settings common to all parts."""
    stamps = [settings_path(part.path(out)) for part in parts]
    if not stamps and not (out.exists() and settings_path(out).exists()):
        raise UserError(f"{out}: no finished part of it is there; run `caad-ds prep pseudo-gt --shard I/N` first")
    settings = [read_json(stamp, "run that shard again") for stamp in stamps or [settings_path(out)]]
    for stamp, other in zip(stamps[1:], settings[1:]):
        if changed := changed_keys(settings[0], other):
            raise UserError(f"{stamp}: another {', '.join(changed)} than in {stamps[0].name}; answer one of them again")
    if settings[0].get("manifest_sha256") != manifest_hash(manifest):
        raise UserError(f"{manifest}: the answers for {out} were made from another manifest; name that one")
    return settings[0]


def _complete(out: Path, parts: list[Part]) -> None:
    count = parts[0].count
    there = {part.index for part in parts if part.path(out).exists()}
    if missing := [f"{index}/{count}" for index in range(count) if index not in there]:
        raise UserError(f"{out}: not finished: shard {', '.join(missing)}; run `caad-ds prep pseudo-gt --shard` for it")


def _merge(manifest: Path, out: Path, parts: list[Part], settings: dict) -> None:
    table = AnswerTable()
    count = 0
    with writing(out) as file, Rejects(out) as rejects:
        for row in rejects.sift(_walk(manifest, out, parts, settings["block"], table)):
            file.write(to_line(row))
            count += 1
        if not count:
            raise UserError(f"{manifest}: no record was answered{rejects.why}")
    table.show(out)
    table.save(out)
    write_json(settings_path(out), settings)
    print(f"{out}: {count} answered{summary(rejects, table)}, merged from {counted(len(parts), 'part')}")


def _walk(manifest: Path, out: Path, parts: list[Part], block: int, table: AnswerTable) -> Iterator[Record | Rejected]:
    """Yield the rows of the parts in the manifest's order and count them in the table.

    UserError unless every record of the manifest is there exactly once.
    """
    outputs = [Output(part.path(out), _remedy(out, part)) for part in parts]
    for number, item in enumerate(read_manifest(manifest, "merge")):
        row = outputs[number // block % len(parts)].take(item)
        table.add(item, row)
        yield row
    for output in outputs:
        output.end()


def _remedy(out: Path, part: Part) -> str:
    return f"remove {settings_path(part.path(out))} and answer --shard {part.index}/{part.count} again"

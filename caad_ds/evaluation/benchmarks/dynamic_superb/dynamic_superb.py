"""Dynamic-SUPERB phase 1 (arXiv 2309.09510), in all of its published formats.

*.jsonl in a folder, or one such file   a row per line (`prompt_manifest.py`), its category DS@<instance>
<instance>/                             a folder per instance: tables of Hugging Face (`hf_tables.py`),
                                        or metadata.json beside audio files (`metadata_json.py`)
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from caad_ds.evaluation.benchmarks import mcr_bench, prompt_manifest
from caad_ds.evaluation.benchmarks.benchmark import PLAIN
from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import dimensions
from caad_ds.evaluation.benchmarks.dynamic_superb.hf_tables import from_tables, has_tables
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import current_name, presentation_name
from caad_ds.evaluation.benchmarks.dynamic_superb.metadata_json import NAME, from_metadata, metadata_files
from caad_ds.evaluation.benchmarks.dynamic_superb.terms import needs_term, turn_with_term
from caad_ds.evaluation.benchmarks.items import Fault, Item, by_subset, first_reason, parted
from caad_ds.evaluation.scoring.matching import verdicts
from caad_ds.utils.errors import UserError

CATEGORY = "DS@"


@dataclass(frozen=True)
class DynamicSuperb:
    """The usable rows as items, `<instance>/<row>`, the labels of each instance, and the rejected rows."""

    items: list[Item] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[dict] = field(default_factory=list)
    limited: bool = False  # rows were left out by a limit

    kind: ClassVar[str] = "dynamic-superb"
    result_kind: ClassVar[str] = "instances"
    setup: ClassVar[Mapping[str, str]] = {}
    prompts: ClassVar[tuple[str, ...]] = (PLAIN,)
    conditions: ClassVar[tuple[None]] = (None,)
    asked: ClassVar[None] = None

    def verdicts(self, item: Item, answer: str) -> dict[str, bool]:
        """Return whether an answer is right by each matching rule."""
        return verdicts(answer, item.gt, self.options[item.subset], item.question)

    @staticmethod
    def load(path: Path, limit: int | None = None) -> "DynamicSuperb":
        """Read a folder, or a JSONL file; `limit` keeps the first usable rows of each instance.

        Instances get their current names, one per presentation (`instance_names.py`). `options` holds the distinct
        labels of an instance, before the limit. Raises UserError if no row can be used.
        """
        if prompt_manifest.manifests(path) and _instances(path):
            raise UserError(f"{path}: has *.jsonl and folders of instances; give the JSONL file, or move one of them")
        read, rejected = parted(_from_manifest(path) if prompt_manifest.manifests(path) else _from_folders(path))
        items, faults = _renamed(read)
        rejected += faults
        if not items:
            reason = first_reason(rejected)
            raise UserError(f"{path}: no row of Dynamic-SUPERB in it can be used ({reason}); fix the files")
        instances = by_subset(items)
        labels = {name: sorted({item.gt for item in members}) for name, members in instances.items()}
        kept = [item for name in sorted(instances) for item in instances[name][:limit]]
        return DynamicSuperb(kept, labels, rejected, limited=len(kept) < len(items))

    @staticmethod
    def is_in(path: Path) -> bool:
        """Return whether a path looks like this benchmark."""
        in_manifest = prompt_manifest.manifests(path) and prompt_manifest.benchmarks_in(path) != {mcr_bench.CATEGORY}
        return bool(in_manifest or _instances(path))


def _instances(path: Path) -> list[Path]:
    """Return the folders of instances; `path` itself if it is named like an instance, or no folder in it is one."""
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    found = [folder for folder in folders if has_tables(folder) or metadata_files(folder)]
    if found and current_name(path.name) not in dimensions():
        return found
    return [path] if path.is_dir() and (has_tables(path) or metadata_files(path)) else []


def _from_folders(path: Path) -> Iterator[Item | dict]:
    for folder in _instances(path):
        if has_tables(folder) and metadata_files(folder):
            yield {"id": folder.name, "reason": f"{folder} has tables and {NAME}; move one of them"}
        else:
            yield from from_tables(folder) if has_tables(folder) else from_metadata(folder)


def _from_manifest(path: Path) -> Iterator[Item | dict]:
    """Yield an item per row, or `{id, reason}`; rows of an instance are numbered over all files."""
    number: Counter[str] = Counter()
    ids: dict[tuple[object, str], str] = {}
    for where, folder, row in prompt_manifest.rows(path):
        name = where
        try:
            if isinstance(row, Fault):
                raise row
            instance = _instance(row)
            name = f"{instance}/{number[instance]}"
            number[instance] += 1
            prompt_manifest.note_id(row, where, ids)
            item = _of_manifest(name, instance, row, folder)
        except Fault as fault:
            yield {"id": name, "reason": f"{where}: {fault}"}
        else:
            yield item


def _instance(row: dict) -> str:
    category = row.get("category")
    if not isinstance(category, str) or not category.startswith(CATEGORY) or category.strip() == CATEGORY:
        raise Fault(f"category {category!r} is not {CATEGORY}<instance>")
    return category.removeprefix(CATEGORY).strip()


def _of_manifest(name: str, instance: str, row: dict, folder: Path) -> Item:
    prompt = prompt_manifest.prompt(row, folder)
    if needs_term(instance):
        turn = prompt.messages[-1]
        turn["content"] = turn_with_term(turn["content"], row.get("text"))
    return Item(name, instance, None, prompt.clips, prompt.messages, prompt.question, prompt.label)


def _renamed(items: list[Item]) -> tuple[list[Item], list[dict]]:
    """Return the items under their instance's name in the table, and the rejected ones.

    If two spellings mean the same instance, one of them is rejected: its items would count twice.
    """
    audio_counts: dict[str, Counter[int]] = defaultdict(Counter)
    for item in items:
        audio_counts[item.subset][len(item.clips)] += 1
    usual = {name: max(counts, key=lambda audios: (counts[audios], audios)) for name, counts in audio_counts.items()}
    found, rejected = [], []
    for item in items:
        try:
            found.append((item, presentation_name(item.subset, len(item.clips), usual[item.subset])))
        except Fault as fault:
            rejected.append({"id": item.id, "reason": str(fault)})
    kept: list[Item] = []
    chosen: dict[str, str] = {}
    for item, instance in sorted(
        found, key=lambda pair: pair[0].subset != pair[1]
    ):  # items named like the instance go first
        if chosen.setdefault(instance, item.subset) == item.subset:
            number = item.id.removeprefix(item.subset)
            kept.append(replace(item, id=instance + number, subset=instance))
    doubles = {item.subset: instance for item, instance in found if chosen[instance] != item.subset}
    rejected += [
        {"id": name, "reason": f"holds {instance}, and so does {chosen[instance]}; leave one of them"}
        for name, instance in doubles.items()
    ]
    return kept, rejected

"""Detect the kind of a benchmark from its files, and load it."""

import difflib
from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import PLAIN, Benchmark
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.from_description.described_benchmark import Described
from caad_ds.evaluation.benchmarks.from_description.description import description_file, read_description, shipped
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark as McrBench
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import existing

KINDS = {kind.kind: kind for kind in (McrBench, DynamicSuperb)}
PROMPTS = tuple(dict.fromkeys(prompt for kind in KINDS.values() for prompt in kind.prompts))


def named(text: str | Path) -> Path:
    """Return an argument as a path or the name of a shipped description; raises UserError if it is neither."""
    if description_file(text) is not None:
        return Path(text)
    try:
        return existing(text)
    except UserError:
        near = difflib.get_close_matches(str(text), shipped(), n=1)
        if not near:
            raise
        raise UserError(f"{text}: no such file or folder; is it {near[0]}? `caad-ds benchmarks` lists them") from None


def load(
    path: Path, kind: str | None = None, limit: int | None = None, data: Path | None = None, prompt: str = PLAIN
) -> Benchmark:
    """Load the benchmark in a folder or file, or the one of a description.

    `kind` (one of KINDS) is detected if None. `limit` keeps the first usable rows of each subset, `data` is the folder
    of a description's files, `prompt` one of PROMPTS. Raises UserError if no kind, or more than one, fits.
    """
    if (file := description_file(path)) is not None:
        if kind is not None:
            raise UserError(f"--kind {kind}: {path} is a description, which has its own form; leave --kind out")
        if prompt != PLAIN:
            raise UserError(f"--prompt {prompt}: {path} is a description, which has its own prompt; leave --prompt out")
        description = read_description(file)
        if description.name in KINDS:
            raise UserError(f"{file}: name: {description.name} is that of a kind of benchmarks; give it another")
        return Described.load(description, data, limit)
    try:
        return _on_disk(path, kind, limit, data, prompt)
    except UserError as error:
        if str(path) not in shipped():
            raise
        raise UserError(f"{error}; ./{path} hides the shipped description of this name: rename it") from error


def _on_disk(path: Path, kind: str | None, limit: int | None, data: Path | None, prompt: str) -> Benchmark:
    """Load the benchmark in a folder or file that is no description."""
    if data is not None:
        raise UserError(f"--data {data}: is where a description's files are, and {path} is no description")
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the one that holds the benchmark")
    found = [name for name, benchmark in KINDS.items() if benchmark.is_in(path)] if kind is None else [kind]
    if not found:
        raise UserError(
            f"{path}: no benchmark in it; MCR-BENCH has <NAME>/<NAME>.json, Dynamic-SUPERB <instance>/ with Parquet "
            "or Arrow files or metadata.json, and both may be in *.jsonl"
        )
    if len(found) > 1:
        raise UserError(f"{path}: could be {' or '.join(found)}; say which by --kind")
    [name] = found
    if prompt not in KINDS[name].prompts:
        raise UserError(f"--prompt {prompt}: {name} has one way of asking; leave --prompt out")
    return KINDS[name].load(path, limit, **({} if prompt == PLAIN else {"prompt": prompt}))

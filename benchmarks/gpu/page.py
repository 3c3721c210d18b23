"""The page of a run as Markdown and JSON, both rewritten after every stage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.gpu.machine import Machine
from benchmarks.gpu.stage import Result, Stage
from caad_ds.utils.files import write_atomic, write_json

SHOWN = 12  # first and last lines shown of text outside tables
WIDTH = 240
TABLE = ("| ", "|-")  # prefixes of a table's lines


@dataclass
class Page:
    """The results of a run so far; `name` is the stem of its files in `folder`."""

    folder: Path
    machine: Machine
    commit: str
    command: str
    began: datetime
    stages: Sequence[Stage]
    results: list[Result] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`gpu_<date>_<time>_<device>`."""
        device = re.sub(r"[^a-z0-9]+", "_", (self.machine.device or "cpu").lower()).strip("_")
        return f"gpu_{self.began:%Y-%m-%d_%H%M%S}_{device}"

    def file(self, kind: str) -> Path:
        """Return the run's file of that kind: md, json, log."""
        return self.folder / f"{self.name}.{kind}"

    def write(self) -> None:
        """Replace page and JSON."""
        write_json(self.file("json"), self._values())
        write_atomic(self.file("md"), self.text().encode())

    def text(self) -> str:
        """Return the page in Markdown."""
        waiting = [Result(stage, "not run") for stage in self.stages[len(self.results) :]]
        all_results = [*self.results, *waiting]
        facts = [*self.machine.rows(), ("commit", self.commit)]
        left_out = [f"- {r.stage.name}: {r.status}{f' ({r.reason})' if r.reason else ''}" for r in all_results
                    if r.status != "passed"]  # fmt: skip
        left_out += [f"- {r.stage.name}: {reason}" for r in all_results for reason in r.without]
        parts = [
            f"# `{self.command}` on {self.machine.device or 'a CPU, to try the script'}",
            f"{self.began:%Y-%m-%d %H:%M} UTC; random weights. Written by `benchmarks/gpu.sh`.",
            _table(("what", "here"), facts),
            _table(("stage", "outcome", "s", "of at most, s"), [_summary(result) for result in all_results]),
            "## What is not in the tables",
            "\n".join(left_out) or "Nothing.",
            *(_section(result) for result in self.results if result.output),
        ]
        return "\n\n".join(parts) + "\n"

    def _values(self) -> dict:
        stages = [
            {
                "name": r.stage.name, "command": _command(r.stage), "status": r.status, "reason": r.reason,
                "seconds": round(r.seconds, 1), "limit": round(r.limit, 1), "without": r.without, "output": r.output,
            }
            for r in self.results
        ]  # fmt: skip
        about = {"command": self.command, "commit": self.commit, "began": self.began.isoformat()}
        return {**about, "machine": vars(self.machine), "stages": stages}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _summary(result: Result) -> tuple[str, ...]:
    ran = result.limit > 0
    return (
        result.stage.name, result.status, f"{result.seconds:.0f}" if ran else "", f"{result.limit:.0f}" if ran else ""
    )  # fmt: skip


def _command(stage: Stage) -> str:
    return " ".join(["python", *(f'"{part}"' if " " in part else part for part in stage.argv)])


def _section(result: Result) -> str:
    """Format a stage's command and output: its text, shortened, then its tables (a warning may interrupt them)."""
    lines = result.output.strip().splitlines()
    rows = [line for line in lines if line.startswith(TABLE)]
    heads = {n for n, following in enumerate(rows[1:]) if following.startswith(("|---", "| ---"))}
    tables = "\n".join(("\n" if n in heads else "") + row for n, row in enumerate(rows)).strip("\n")
    parts = [f"## {result.stage.title}", f"`{_command(result.stage)}`: {result.status}"]
    parts += [_text([line for line in lines if not line.startswith(TABLE)]), tables]
    return "\n\n".join(part for part in parts if part)


def _text(lines: list[str]) -> str:
    if not any(lines):
        return ""
    if len(lines) > 2 * SHOWN:
        left_out = f"... {len(lines) - 2 * SHOWN} lines, in the log ..."
        lines = [*lines[:SHOWN], left_out, *lines[-SHOWN:]]
    body = "\n".join(line[:WIDTH].replace("```", "'''") for line in lines).strip("\n")
    return f"```text\n{body}\n```"

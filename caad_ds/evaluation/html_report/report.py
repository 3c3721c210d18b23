"""`caad-ds report`: a self-contained web page about several evaluations, with their audio."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from caad_ds.evaluation.asked_items import REMEDY, read_items
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.comparison.compare import compare
from caad_ds.evaluation.comparison.result import Comparison
from caad_ds.evaluation.comparison.run_folders import read_runs
from caad_ds.evaluation.html_report.page_audio import EMBEDDED_MB, PageAudio
from caad_ds.evaluation.html_report.report_data import Run, page_data
from caad_ds.evaluation.html_report.tokens import read_tokens
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import existing, page_file
from caad_ds.utils.progress import progress, waiting
from caad_ds.utils.text import read_text

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data.js", "tables.js", "matrices.js", "list.js", "item.js", "main.js")
# Matplotlib's colours, mapped to those of the page, which adapt to light and dark mode.
COLOURS = {"#000000": "currentColor", "#262626": "currentColor", "#595959": "currentColor", "#ebebeb": "var(--line)"}
WHITE = "#ffffff", "var(--card)"

Clips = dict[str, list[str | None]]  # by item, a value per clip


@dataclass(frozen=True)
class Report:
    """The written page: `silent` lists audio without a player, with reasons; `rejected` counts rows left out by a run.

    `unshown` are messages about explanations in the run folders that are left out. `beside` is the folder with the
    audio, None if it is embedded.
    """

    items: int
    silent: list[dict]
    unshown: list[str]
    beside: Path | None
    rejected: dict[Path, int]


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    baseline: str | None = None,
    title: str | None = None,
    tokens: Sequence[str | Path] = (),
    embed_mb: float = EMBEDDED_MB,
    audio: bool = True,
) -> Report:
    """Write a page about finished evaluations of one benchmark, as `caad-ds report` does.

    Args:
        runs: run folders of `evaluate`; runs with the same name are seeds of one system.
        out: the page, `NAME.html`; an existing file is replaced.
        baseline: name of the system that the others are tested against; None: the first.
        title: of the page; None: the benchmark's.
        tokens: folders of `explain` about items of the runs. `tokens` in a run folder is used automatically, except
            files about other items.
        embed_mb: up to so many megabytes of audio are embedded; more is written to the folder `NAME_audio` beside the
            page, which is replaced, or removed if no longer needed.
        audio: False: no players.

    Raises:
        UserError: what `compare` refuses, missing items, an explanation of other items, or other files in
            `NAME_audio`.
    """
    out = page_file(out)
    folders = [existing(run) for run in runs]
    found = compare(folders, baseline=baseline, title=title)
    with waiting("reading what was asked"):
        answered = _runs(folders)
        names = {(p["id"], p["condition"]) for p in answered[0].predictions}
        items = [item for item in read_items(folders[0]) if (item.id, item.condition) in names]
        if len(items) != len(names):
            raise UserError(f"{folders[0]}: its items.jsonl and predictions.jsonl are of different items; {REMEDY}")
        explained, unshown = read_tokens([existing(folder) for folder in tokens], folders, items)
    sounds = PageAudio(round(embed_mb * 1e6), out.with_name(f"{out.stem}_audio"))
    with sounds.replacing():
        clips, failed = _clips(items, sounds if audio else None)
        silent = [{"id": name, "reason": reason} for name, reasons in failed.items() for reason in reasons if reason]
        notes = _notes(silent, unshown, audio)
        data = page_data(found, answered, items, clips, failed, explained, notes)
        write_atomic(out, page(data, sounds.sources(), _plot(found)))
    return Report(len(clips), silent, unshown, sounds.folder if sounds.in_folder else None, found.rejected)


def page(data: dict, sources: dict[str, str], plot: str = "") -> bytes:
    """Return the page's HTML; it loads nothing but audio from its folder, and runs only this script."""
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
    script = "\n".join(["'use strict';", *(read_text(ASSETS / name) for name in SCRIPTS)])
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("page.html").render(
        title=data["title"], script=script, script_hash=script_hash, style=read_text(ASSETS / "page.css"),
        data=in_script(data), sources=in_script(sources), plot=plot,
    )  # fmt: skip
    return text.encode("utf-8", "backslashreplace")  # JSON may contain lone surrogates


def in_script(value: object) -> str:
    """Return JSON that is safe inside a <script> element: no text in it ends the element or starts a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs with their predictions, grouped by system in the systems' order."""
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        by_name.setdefault(RunFolder(folder).read_scores()["name"], []).append(folder)
    systems = read_runs(list(folders)).systems
    return [
        Run(name, folder.resolve().name, predictions)
        for name, runs in systems.items()
        for folder, predictions in zip(by_name[name], runs, strict=True)
    ]


def _clips(items: Sequence[Item], sounds: PageAudio | None) -> tuple[Clips, Clips]:
    """Return the names of each item's clips (None: no player), and the reasons for items with such clips."""
    rows = {item.id: item for item in items}
    if sounds is None:
        return {name: [] for name in rows}, {}
    clips: Clips = {}
    failed: Clips = {}
    with progress("reading the audio", len(rows)) as advance:
        for name, item in rows.items():
            clips[name] = [sounds.add(clip) for clip in item.clips]
            if None in clips[name]:
                reasons = ((clip, sounds.failed.get(str(clip))) for clip in item.clips)
                failed[name] = [None if reason is None else f"{clip}: {reason}" for clip, reason in reasons]
            advance(1)
    return clips, failed


def _notes(silent: list[dict], unshown: list[str], audio: bool) -> list[str]:
    notes = [] if audio else ["Written without audio."]
    if silent:
        notes.append(f"Without a player: {counted(len(silent), 'clip')}; the items say why.")
    return notes + [f"Not shown token by token: {reason}" for reason in unshown]


def _plot(found: Comparison) -> str:
    """Return the trade-off picture as SVG in the page's colours; "" if there is none."""
    draw = found.pictures.get("tradeoff.png")
    if draw is None:
        return ""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tradeoff.svg"
        draw(file)
        text = read_text(file)
    # Comments repeat the texts that the picture draws, the metadata name vocabularies.
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, page_colour in (*COLOURS.items(), WHITE):
        text = text.replace(colour, page_colour)
    return text

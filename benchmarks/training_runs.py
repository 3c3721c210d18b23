"""Shared by benchmarks of training runs: noise clips, runs in separate processes, a table of times."""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from mlflow import MlflowClient

from benchmarks.measure import cap_memory, cpu_name
from caad_ds.cli import main as caad_ds
from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.audio_markers import user_content

MEASURED = 10  # last steps; at least as many before them compile kernels and fill caches
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Setting:
    """A benchmark of training runs.

    Args:
        name: of the folder below --work, and of MLflow's experiment.
        make: writes the inputs of all runs into a folder; called with True for tiny ones, for a CPU.
        values: returns the configuration for such a folder, without the values common to all benchmarks.
        rows: changed values of a run's configuration, by row name.
        parts: parts of a step whose shares of the time are shown.
        steps: default for --steps.
    """

    name: str
    make: Callable[[Path, bool], None]
    values: Callable[[Path, bool], dict[str, dict]]
    rows: dict[str, dict[str, dict]]
    parts: tuple[str, ...]
    steps: int

    def config(self, work: Path, row: str, steps: int, tiny: bool) -> Path:
        """Write the YAML of a row; it replaces that of the previous row, and so does the output in `work`/run."""
        values = self.values(work, tiny)
        own: dict[str, dict] = {
            "run": {"name": row, "output_dir": str(work / "run"), "log_every": steps - MEASURED},
            "optimizer": {"steps": steps, "warmup_steps": 2},
            "tracking": {"uri": _store(work), "experiment": self.name},
        }
        if tiny:
            own["run"]["peak_tflops"] = 0.1  # unknown for a CPU
        for change in (own, self.rows[row]):
            for section, keys in change.items():
                values[section] = values.get(section, {}) | keys
        if values["teacher"].get("placement") == "nvme":
            values["teacher"]["nvme_path"] = str(work / "nvme")
        path = work / "run.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def measured(self, work: Path, row: str, began: float, ended: float) -> list[str]:
        """Return a row's cells from the newest MLflow run of that name."""
        client = MlflowClient(_store(work))
        experiment = client.get_experiment_by_name(self.name)
        [run, *_] = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{row}'")
        points = {key: client.get_metric_history(run.info.run_id, f"train/{key}") for key in ("seconds_per_step", "lr")}
        last = run.data.metrics
        first, final = (points["lr"][at].timestamp / 1000 for at in (0, -1))
        start = first - began - points["seconds_per_step"][0].value
        return [
            row, f"{last['train/seconds_per_step']:.2f}", f"{last['train/samples_per_second']:.1f}",
            f"{last['train/tokens_per_second']:.0f}", f"{last.get('train/mfu', float('nan')):.1%}",
            *(f"{last.get(f'train/share/{part}', 0.0):.0%}" for part in self.parts),
            f"{last['train/memory_gb']:.1f}", f"{start:.0f}", f"{ended - final:.0f}",
        ]  # fmt: skip

    @property
    def columns(self) -> list[str]:
        """Return the column names of `measured`."""
        return ["run", "s/step", "samples/s", "tokens/s", "MFU", *self.parts, "GB", "start, s", "end, s"]


def main(setting: Setting, description: str) -> None:
    """Create missing inputs below --work, run the rows, and print the table of the finished ones."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / f"caad-ds-{setting.name}")
    parser.add_argument("--rows", nargs="+", choices=setting.rows, default=list(setting.rows))
    parser.add_argument("--steps", type=int, default=setting.steps)
    parser.add_argument("--cap-gb", type=float, help="of the GPU's memory, no more than this may be taken")
    parser.add_argument("--tiny", action="store_true", help="models for a CPU")
    args = parser.parse_args()
    if args.steps < 2 * MEASURED:
        parser.error(f"--steps {args.steps}: give {2 * MEASURED} or more")
    work = args.work / ("tiny" if args.tiny else setting.name)
    if not work.is_dir():
        _make(setting, work, args.tiny)
    rows: list[list[str]] = []
    try:
        for row in args.rows:
            file = setting.config(work, row, args.steps, args.tiny)
            shutil.rmtree(work / "run", ignore_errors=True)
            began = time.time()
            done = _in_process(train, file, args.cap_gb)
            rows.append(setting.measured(work, row, began, time.time()) if done else [row, "failed"])
    finally:  # an interrupted benchmark shows its finished rows
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
        cap = "" if args.cap_gb is None else f", of which {args.cap_gb:g} GB may be taken"
        print(f"\ntorch {torch.__version__}, {where}{cap}; {args.steps} steps of 8 samples\n")
        lines = [setting.columns, ["---"] * len(setting.columns), *rows]
        print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n", flush=True)
    if failed := [name for name, *cells in rows if cells == ["failed"]]:
        sys.exit(f"failed: {', '.join(failed)}; what went wrong stands above")


def train(file: Path, cap_gb: float | None) -> None:
    """Train in this process, with at most `cap_gb` of the device's memory."""
    if cap_gb is not None:
        cap_memory(cap_gb)
    sys.exit(caad_ds(["train", "--config", str(file)]))


def noise_shards(work: Path, seconds: Sequence[float], answers: Sequence[str], question: str) -> None:
    """Write `work`/shards: a clip of white noise of each length, with its answer to one question."""
    clips = work / "clips"
    clips.mkdir(parents=True)
    rng = np.random.default_rng(0)
    manifest = clips / "answered.jsonl"
    with open(manifest, "w") as file:
        for n, (length, answer) in enumerate(zip(seconds, answers, strict=True)):
            noise = 0.1 * rng.standard_normal(int(length * SAMPLE_RATE))
            soundfile.write(clips / f"{n}.wav", noise.astype(np.float32), SAMPLE_RATE)
            text = " ".join(answer.split()[:10])
            record = {
                "id": f"clip-{n}", "audios": [{"path": f"{n}.wav", "text": text, "duration": length}],
                "metadata": {}, "seed_description": "(Noise: white)", "source": "noise",
                "messages": [{"role": "user", "content": user_content(question)}], "response": answer,
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
    if caad_ds(["prep", "pack", "--manifest", str(manifest), "--out", str(work / "shards")]):
        sys.exit("packing failed")


def _make(setting: Setting, work: Path, tiny: bool) -> None:
    began, partial = time.time(), work.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if not _in_process(setting.make, partial, tiny):
        sys.exit(f"{work}: making the models failed")
    partial.rename(work)
    print(f"made {work} in {time.time() - began:.0f} s", flush=True)


def _in_process(work: Callable[..., None], *args: object) -> bool:
    """Run `work` in a separate process, so that its memory is freed; returns whether it succeeded."""
    process = SPAWN.Process(target=work, args=args)
    process.start()
    process.join()
    return process.exitcode == 0


def _store(work: Path) -> str:
    return f"sqlite:///{work}/mlflow.db"

"""CAAD on recorded human speech: `python -m examples.recorded --root FOLDER` (docs/results/recorded_speech.md).

FOLDER holds the unpacked Debian packages of the corpus (data_prep/ingest/sources/fillets_ng.py says how to get them).
Every command is printed. Finished steps are skipped, so run it again to resume.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from caad_ds.utils.command import positive
from caad_ds.utils.quiet_libraries import quiet
from caad_ds.utils.text import read_text
from examples.demo.commands import ROOT, Job, caad_ds, resumable

DATA, RUNS, CONFIGS = Path("data/recorded"), Path("runs/recorded"), Path("configs/recorded")
INSTRUCTIONS = CONFIGS / "instructions.yaml"
LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
# With this example the small LLM copies the attribute in question; without one it often names the wrong option.
SYSTEM = (
    "Answer in one short sentence from the attributes in parentheses. For example, (Gender: male, Spoken language: "
    "Dutch, Recording quality: clean) gives: The speaker is male. The spoken language is Dutch. The recording quality "
    "is clean."
)
# Many prompts have no hint: they teach the model to use the audio, and the run is short. Of the teacher's hints, 95%
# agree with the audio.
HINTS = {
    "teacher": "none=0.7,faithful=0.285,adversarial=0.015",
    "distill": "none=0.5,faithful=0.4,adversarial=0.05,irrelevant=0.05",
}
QUESTIONS = {"teacher": 2, "distill": 2}
TESTS = {"both": ("test_known",), "czech": ("test_known", "test_other")}
# In protocol czech all training speech is Czech, so the language cannot be learned.
ATTRIBUTES = {"both": ("gender", "language", "noise"), "czech": ("gender", "noise")}


def main(argv: list[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="examples.recorded", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--protocol", choices=TESTS, default="both", help="both: default; czech: Dutch speakers unseen")
    parser.add_argument("--alpha", type=float, help="of CAAD and of CD (default: what check-teacher takes)")
    parser.add_argument("--adaptive", action="store_true", help="a third student, by objective.alpha_gate")
    parser.add_argument("--limit", type=positive, default=60, help="test rows per attribute, of four prompts each (60)")
    parser.add_argument("--ranks", type=positive, default=1, help="processes of a training run (1)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=c", help="override keys of every run"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    args = parser.parse_args(argv)
    args.root = args.root.resolve()
    os.chdir(ROOT)
    quiet()
    return resumable(lambda: run(args), args.debug)


def run(args: argparse.Namespace) -> int:
    """Run all steps: data, teacher, its check, students, tables."""
    data, runs = DATA / args.protocol, RUNS / args.protocol
    tests = TESTS[args.protocol]
    prepare(args.root, data, ("teacher", "distill", "validation", *tests))
    train(args, "teacher", f"data.train={data}/shards/teacher")
    caad_ds(
        "check-teacher", "--model", runs / "teacher/model", "--benchmark", data / "benchmark/validation",
        "--instructions", INSTRUCTIONS, "--negatives", "zero_mel", "--limit", 40, "--dtype", "bfloat16",
        "--out", runs / "check.json",
    )  # fmt: skip
    if args.alpha is None:
        args.alpha = recommended(runs / "check.json")
    for name, objective in students(args).items():
        train(args, name, f"data.train={data}/shards/distill", f"teacher.path={runs}/teacher/model",
              f"teacher.cache.path={runs}/teacher_cache", f"student.path={runs}/teacher/model", *objective)  # fmt: skip
    for test in tests:
        table(args, test)
    return 0


def students(args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Return the objective settings of each student by its name."""
    alpha = f"objective.alpha={args.alpha}"
    adaptive = {"adaptive": (alpha, "objective.alpha_gate=text_certainty")} if args.adaptive else {}
    return {"caad": (alpha,), "std_kd": ("objective.alpha=0.0",), **adaptive}


def recommended(check: Path) -> float:
    """Return the alpha that check-teacher recommends; 1 if it recommends none, to show a contrast all the same."""
    alpha = json.loads(read_text(check))["verdict"]["alpha"] or 1.0
    print(f"alpha of CAAD and of contrastive decoding: {alpha:g}")
    return alpha


def prepare(root: Path, data: Path, splits: tuple[str, ...]) -> None:
    """Prepare shards of the training splits and benchmarks of the others from the unpacked packages."""
    manifest = DATA / "all.jsonl"
    caad_ds("prep", "ingest", "fillets_ng", "--root", root, "--out", manifest, "--max-seconds", 8)
    caad_ds("prep", "split", "--manifest", manifest, "--out", DATA / "splits", "--rules", CONFIGS / "splits.yaml")
    for split in splits:
        clean, noisy = DATA / "splits" / data.name / f"{split}.jsonl", data / f"{split}.jsonl"
        caad_ds("prep", "add-noise", "--manifest", clean, "--out", noisy, "--audio-dir", DATA / "audio")
        if split in HINTS:
            shards(data, split)
        else:
            out = data / "benchmark" / split
            caad_ds("prep", "conflict-benchmark", "--manifest", noisy, "--instructions", INSTRUCTIONS, "--out", out,
                    "--attributes", *ATTRIBUTES[data.name])  # fmt: skip


def shards(data: Path, split: str) -> None:
    """Run Stage 1 with the teacher's own LLM, and pack the shards of a training split."""
    described, answered = data / f"{split}.described.jsonl", data / f"{split}.answered.jsonl"
    caad_ds(
        "prep", "describe", "--manifest", data / f"{split}.jsonl", "--out", described, "--instructions", INSTRUCTIONS,
        "--hints", HINTS[split], "--questions-per-audio", QUESTIONS[split], "--attributes", *ATTRIBUTES[data.name],
    )  # fmt: skip
    caad_ds(
        "prep", "pseudo-gt", "--manifest", described, "--out", answered, "--engine", "transformers", "--model", LLM,
        "--system", SYSTEM, "--max-new-tokens", 16, "--batch-size", 32, "--dtype", "bfloat16",
    )  # fmt: skip
    caad_ds("prep", "pack", "--manifest", answered, "--out", data / "shards" / split)


def train(args: argparse.Namespace, name: str, *overrides: str) -> None:
    """Train the teacher or a student, as run `name`."""
    config = CONFIGS / ("teacher.yaml" if name == "teacher" else "caad.yaml")
    out = RUNS / args.protocol / name
    Job(str(config), (f"run.name={name}", f"run.output_dir={out}", *overrides, *args.set), out).run(args.ranks)


def table(args: argparse.Namespace, test: str) -> None:
    """Evaluate the systems on one test split: answers, scores, table, picture."""
    runs, decoding = RUNS / args.protocol, {"teacher + CD": ("--contrast-alpha", args.alpha)}
    outputs = []
    models = {"teacher": "teacher", "teacher + CD": "teacher"} | {name: name for name in students(args)}
    for name, model in models.items():
        outputs.append(runs / "evaluation" / test / name.replace(" ", "_"))
        caad_ds(
            "evaluate", "--model", runs / model / "model", "--benchmark", DATA / args.protocol / "benchmark" / test,
            "--out", outputs[-1], "--name", name, "--limit", args.limit, "--max-new-tokens", 12,
            "--dtype", "bfloat16", *decoding.get(name, ()),
        )  # fmt: skip
    title = f"recorded speech, {args.protocol}: {test}"
    caad_ds("compare", *outputs, "--baseline", "std_kd", "--out", runs / f"table-{test}", "--title", title)


if __name__ == "__main__":
    sys.exit(main())

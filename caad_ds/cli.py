"""The console script: `caad-ds <command>`."""

import argparse
import difflib
import importlib
import os
import sys
from types import ModuleType

from caad_ds import __version__
from caad_ds.utils.command import Parser, guarded
from caad_ds.utils.errors import UserError
from caad_ds.utils.quiet_libraries import quiet

EVALUATION = "caad_ds.evaluation.commands"
COMMANDS = {
    "prep synthesize": ("data_prep.synthetic.synthesize", "synthesise the demo's corpus with eSpeak NG"),
    "prep ingest": ("data_prep.ingest.ingest", "read a corpus into a manifest, probing its audio"),
    "prep add-noise": ("data_prep.synthetic.add_noise", "give half of a manifest's clips added noise"),
    "prep split": ("data_prep.split", "split a manifest by its metadata"),
    "prep annotate": (
        "data_prep.annotate.annotate",
        "measure pitch, speaking rate, noise, ... of the audio into the metadata",
    ),
    "prep describe": ("data_prep.describe", "write seed descriptions and draw instructions"),
    "prep pseudo-gt": ("data_prep.stage1.pseudo_gt", "Stage 1: answer the instructions from the seed descriptions"),
    "prep merge": ("data_prep.stage1.merge", "join the parts of an array job over pseudo-gt --shard"),
    "prep pack": ("data_prep.pack.pack", "pack an answered manifest into WebDataset shards"),
    "prep join-shards": ("data_prep.pack.join_shards", "join the parts that an array job packed"),
    "prep verify": ("data_prep.verify.verify", "check shards against their index"),
    "prep conflict-benchmark": ("data_prep.conflict_benchmark", "write a benchmark in MCR-BENCH's format"),
    "config": ("caad_ds.config.listing", "list the keys of a run's YAML: type, default, meaning"),
    "plan": ("caad_ds.training.plan.plan_command", "what a run needs: memory, FLOPs, hours, files; no weights, no GPU"),
    "train": ("caad_ds.training.train_command", "train: Stage 2 distillation, or CE"),
    "cache-teacher": (
        "caad_ds.training.teacher.cache_teacher",
        "store the teacher's states, so that it runs once a sample",
    ),
    "dashboard": ("caad_ds.tracking.dashboard", "serve MLflow's pages and print the address of the curves"),
    "import-desta": ("caad_ds.models.import_desta", "make a teacher of a published DeSTA connector and its LLM"),
    "export": ("caad_ds.publishing.export", "write a checkpoint as a model folder"),
    "push": ("caad_ds.publishing.push", "send a model folder to the Hugging Face hub"),
    "ask": ("caad_ds.serving.ask", "ask a model about a recording"),
    "serve": ("caad_ds.serving.serve", "serve a model: OpenAI's chat interface with audio, and a page to ask it"),
    "benchmarks": (f"{EVALUATION}.benchmarks", "list the benchmarks, or check the rows of one (benchmarks check PATH)"),
    "check-teacher": (f"{EVALUATION}.check_teacher", "is the teacher fit for contrastive distillation?"),
    "evaluate": (f"{EVALUATION}.evaluate", "answer a benchmark and score the answers"),
    "speed": (f"{EVALUATION}.speed", "size and speed of a teacher and its students, with and without CD"),
    "explain": (f"{EVALUATION}.explain", "what audio, text and their contrast make of each token of an answer"),
    "compare": (f"{EVALUATION}.compare", "one table and picture of several evaluations"),
    "report": (f"{EVALUATION}.report", "a page about several evaluations, to look at and listen to"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status; only that command's module is imported."""
    if "_ARGCOMPLETE" in os.environ:
        complete()
    argv = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(argv), debug="--debug" in argv)


def _run(argv: list[str]) -> int:
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    name = _command_of(argv)
    if name is None:
        return _usage(argv)
    quiet()
    parser = Parser(prog=f"caad-ds {name}", description=COMMANDS[name][1])
    module = _add_arguments(parser, name)
    return module.run(parser.parse_args(argv[len(name.split()) :]))


def _command_of(argv: list[str]) -> str | None:
    return next((" ".join(argv[:n]) for n in (2, 1) if " ".join(argv[:n]) in COMMANDS), None)


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> ModuleType:
    """Import a command's module and add its arguments."""
    module = importlib.import_module(COMMANDS[name][0])
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    module.register(parser)
    return module


def _usage(argv: list[str]) -> int:
    if argv == ["--version"]:
        print(f"caad-ds {__version__}")
        return 0
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    if argv in ([], ["-h"], ["--help"], ["prep"], ["prep", "-h"], ["prep", "--help"]):
        print("usage: caad-ds <command> [--help] | help <command> | --version\n\n" + "\n".join(lines))
        return 0
    command = " ".join(argv[: 2 if argv[0] == "prep" else 1])
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"unknown command {command!r}{hint}; caad-ds --help lists them")


def complete() -> None:
    """Answer a shell's completion request and exit; only the command on its line is imported."""
    import argcomplete

    typed = _command_of(os.environ.get("COMP_LINE", "").split()[1:])
    parser = argparse.ArgumentParser(prog="caad-ds")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    prep = commands.add_parser("prep").add_subparsers()
    for name in COMMANDS:
        one = (prep if name.startswith("prep ") else commands).add_parser(name.removeprefix("prep "))
        if name == typed:
            _add_arguments(one, name)
    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())

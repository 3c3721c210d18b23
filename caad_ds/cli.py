"""The console script: `caad-ds <command>`."""

import argparse
import difflib
import importlib
import sys

from caad_ds.command import guarded, is_main
from caad_ds.quiet import quiet

COMMANDS = {
    "prep synthesize": ("data_prep.synthesize", "synthesise the demo's corpus with eSpeak NG"),
    "prep ingest": ("data_prep.ingest", "read a corpus into a manifest, probing its audio"),
    "prep add-noise": ("data_prep.add_noise", "give half of a manifest's clips added noise"),
    "prep split": ("data_prep.split", "split a manifest by its metadata"),
    "prep annotate": ("data_prep.annotate", "measure pitch, speaking rate, noise, ... of the audio into the metadata"),
    "prep describe": ("data_prep.describe", "write seed descriptions and draw instructions"),
    "prep pseudo-gt": ("data_prep.pseudo_gt", "Stage 1: answer the instructions from the seed descriptions"),
    "prep merge": ("data_prep.merge", "join the parts of an array job over pseudo-gt --shard"),
    "prep pack": ("data_prep.pack", "pack an answered manifest into WebDataset shards"),
    "prep join-shards": ("data_prep.join_shards", "join the parts that an array job packed"),
    "prep verify": ("data_prep.verify", "check shards against their index"),
    "prep conflict-benchmark": ("data_prep.conflict_benchmark", "write a benchmark in MCR-BENCH's format"),
    "train": ("caad_ds.train", "train: Stage 2 distillation, or CE"),
    "import-desta": ("caad_ds.import_desta", "make a teacher of a published DeSTA connector and its LLM"),
    "export": ("caad_ds.export", "write a checkpoint as a model folder"),
    "check-teacher": ("caad_ds.evaluation.check_teacher", "is the teacher fit for contrastive distillation?"),
    "evaluate": ("caad_ds.evaluation.evaluate", "answer a benchmark and score the answers"),
    "speed": ("caad_ds.evaluation.measure_speed", "size and speed of a teacher and its students, with and without CD"),
    "explain": ("caad_ds.evaluation.explain", "what audio, text and their contrast make of each token of an answer"),
    "compare": ("caad_ds.evaluation.compare", "one table and picture of several evaluations"),
}


# These import torch and transformers before they can say anything, which takes seconds, and more from a slow disk.
HEAVY = ("check-teacher", "evaluate", "speed", "explain")


def main(argv: list[str] | None = None) -> int:
    """Dispatch to a command's module; only that module is imported."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next((" ".join(argv[:n]) for n in (2, 1) if " ".join(argv[:n]) in COMMANDS), None)
    if name is None:
        return _usage(argv)
    module_name, summary = COMMANDS[name]
    quiet()
    if name in HEAVY and is_main():
        print(f"caad-ds {name}: starting", file=sys.stderr, flush=True)
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"caad-ds {name}", description=summary)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    module.register(parser)
    return guarded(module.run, parser.parse_args(argv[len(name.split()) :]))


def _usage(argv: list[str]) -> int:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    text = "usage: caad-ds <command> [--help]\n\n" + "\n".join(lines)
    if argv in ([], ["-h"], ["--help"], ["prep"], ["prep", "-h"], ["prep", "--help"]):
        print(text)
        return 0
    asked = " ".join(argv[: 2 if argv[0] == "prep" else 1])
    near = difflib.get_close_matches(asked, COMMANDS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    print(f"caad-ds: error: unknown command {asked!r}{hint}; caad-ds --help lists them", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""`benchmarks/gpu.sh`: runs the stages in order and writes the page of the run."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu import stages as known
from benchmarks.gpu.machine import ROOT, Machine, commit
from benchmarks.gpu.page import Page
from benchmarks.gpu.run import Interrupt, Runner, say
from benchmarks.gpu.stage import Stage
from caad_ds.utils.errors import UserError

SHOWN = 30  # last lines shown of a stage that gave no figures
Stages = Callable[[bool, dict[str, str]], list[Stage]]


def main(argv: list[str], stages: Stages = known.stages) -> int:
    """Run the stages; returns the exit status: 1 if a stage lacks its figures, 128 + the number of a signal, else 0."""
    interrupt, began = Interrupt(), time.monotonic()
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on a CPU, to try the script")
    parser.add_argument("--out", type=Path, help="folder of the page (default benchmarks/results, a new one if --tiny)")
    parser.add_argument("--commit", help="what is measured, where there is no git checkout")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    args = parser.parse_args(argv)
    environment = known.environment(args.tiny)
    every = stages(args.tiny, environment)
    names = [stage.name for stage in every]
    if unknown := set(args.only or []) - set(names):
        parser.error(f"--only {' '.join(sorted(unknown))}: the stages are {', '.join(names)}")
    try:
        machine = Machine.here(environment)
    except UserError as error:
        parser.error(str(error))
    if not args.tiny and machine.device is None:
        parser.error(f"PyTorch {machine.packages['torch']} finds no GPU here; --tiny tries the script on a CPU")
    chosen = [stage for stage in every if stage.name in (args.only or names)]
    folder = args.out or (Path(tempfile.mkdtemp(prefix="caad-ds-gpu-")) if args.tiny else ROOT / "benchmarks/results")
    command = " ".join(["benchmarks/gpu.sh", *(["--tiny"] * args.tiny), *(["--only", *args.only] if args.only else [])])
    page = Page(folder, machine, args.commit or commit(), command, datetime.now(UTC), chosen)
    try:
        page.write()
    except (UserError, OSError) as error:
        parser.error(f"--out {folder}: {error}")
    runner = Runner(machine, environment, page.file("log"), interrupt, began + known.FOR_THE_REST)
    for result in runner.results(chosen):
        page.results.append(result)
        page.write()
        if result.bad:
            say(*result.output.splitlines()[-SHOWN:])
        say(f"{result.stage.name}: {result.status} {result.reason}".rstrip())
    say(f"{page.file('md')}, in {time.monotonic() - began:.0f} s")
    if interrupt.number:
        return 128 + interrupt.number
    return int(any(result.bad for result in page.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the numeric tests as other CPUs compute them: python -m tests.cpus (make test-cpus).

PyTorch, oneDNN and MKL choose their code by the CPU; it and the number of threads decide in which order sums are made.
Each row of the table is a run with some of these choices changed; `make test` has the machine's own, on one thread.
"""

import os
import re
import subprocess
import sys
import time

from torch.backends.cpu import get_cpu_capability

from tests.root import ROOT

SETTINGS = {
    "no vector instructions in PyTorch, oneDNN with SSE4.1": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "PyTorch with AVX2, MKL's code for any CPU, 4 threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "4",
    },
}
MARKED = re.compile(r"\bmark\.numeric\b")


def run(changed: dict[str, str]) -> tuple[str, bool]:
    """Run the tests under these variables; return pytest's closing line and whether all passed."""
    # Threads that wait would otherwise keep the cores from those that compute, where there are more of them than cores.
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | os.environ | changed
    # Every process imports the files that it is given, and makes all of their tests: those alone that have such tests.
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if MARKED.search(file.read_text())]
    command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow", "-n", "2", "--dist", "loadfile", *files]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", (done.stdout.splitlines() or [""])[-1])
    return ", ".join(counts) or "nothing ran", done.returncode == 0


def main() -> int:
    """Print the table, a row as its run ends; return 1 if a test failed."""
    print(f"| changed (own: {get_cpu_capability()}, 1 thread) | tests | seconds |\n| --- | --- | ---: |", flush=True)
    passed = True
    for name, changed in SETTINGS.items():
        began = time.monotonic()
        counts, right = run(changed)
        passed &= right
        print(f"| {name} | {counts} | {time.monotonic() - began:.0f} |", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

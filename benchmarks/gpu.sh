#!/bin/bash
# What is owed on a GPU, most important first, in at most nine minutes on one H100: a page of the figures.
#
#   benchmarks/gpu.sh [--out DIR] [--commit TEXT] [--only STAGE ...] [--tiny]
#
# Writes gpu_<date>_<device>.md into benchmarks/results, or into --out, after every stage anew; beside it .log, with all
# that was printed, and .json, with each stage's result. A stage that fails, or is stopped at its limit, leaves the
# others' results and makes the exit status 1; what is missing here is skipped by name; Ctrl-C leaves what was finished.
#
# Nothing is installed. Run it with the Python that has, beside PyTorch with CUDA and its Triton, what setup.py requires
# and its extras [test,peers]: PYTHON=.venv/bin/python, else the active environment's python3. Other than Python's:
#   - 80 GB of GPU memory for all stages (48 without a)'s largest tests), 64 GB of memory, 45 GB of disk at $TMPDIR
#   - a C++ compiler, nvcc and libaio (Debian: libaio-dev) for DeepSpeed's NVMe operator, the one that is compiled here;
#     Triton and torch.compile compile their kernels, each within its stage's limit
# On a machine without a network, carry wheels and install them first:
#   python3 -m pip download --no-deps -d .whl deepspeed==... transformers==... mlflow==... ...      (where there is one)
#   python3 -m pip install --no-index --no-deps --target /tmp/site .whl/* && export PYTHONPATH=/tmp/site
#   benchmarks/gpu.sh --out "$OUT" --commit "$(git describe --always --dirty)"     (a copy without .git: give its text)
#
# --tiny tries all of it on a CPU with tiny shapes, in about two minutes on two cores; CI does. Its page goes into a
# temporary folder, or into --out.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -u -m benchmarks.gpu "$@"

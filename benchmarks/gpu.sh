#!/bin/bash
# The GPU benchmarks, most important first, in at most eleven minutes on one H100, and a page of the figures.
#
#   benchmarks/gpu.sh [--out DIR] [--commit TEXT] [--only STAGE ...]
#   benchmarks/gpu.sh --tiny [--out DIR] [--only STAGE ...]
#
# Writes gpu_<date>_<device>.md into benchmarks/results, or into --out, again after every stage; beside it .json, with each
# stage's result, and .log, with all that was printed. A stage that fails, or is stopped at its limit, leaves the others'
# results and makes the exit status 1; what is missing here is skipped by name; Ctrl-C leaves what was finished. What a
# stage does not use of its limit, the next ones may. Where a command may not run as long, divide them by --only.
#
# Nothing is installed. The Python that runs it, PYTHON=.venv/bin/python or else python3, must have PyTorch with CUDA and
# Triton, what setup.py requires and the extras [test,peers]. All stages together take 80 GB of GPU memory, 64 GB of
# memory and 45 GB of disk at $TMPDIR. DeepSpeed compiles one operator, that for NVMe, with g++, nvcc and libaio (Debian:
# libaio-dev); Triton and torch.compile compile their kernels. All of that is within the stages' limits.
#
# For a machine without a network, gather wheels for its Python where there is one. Beside what a CUDA image commonly has:
#   pip wheel --no-deps -w .whl -c constraints.txt deepspeed hjson
#   pip download --no-deps -d .whl --python-version 3.12 --only-binary=:all: -c constraints.txt transformers tokenizers \
#     huggingface_hub peft pydantic pydantic_core annotated_types typing_inspection soundfile cffi pycparser soxr mlflow \
#     mlflow-skinny mlflow-tracing sqlalchemy alembic mako sqlparse cachetools liger-kernel trl datasets hypothesis ...
# and there, in a copy of the checkout (one without .git has to be told its commit):
#   python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl
#   PYTHONPATH=/tmp/site benchmarks/gpu.sh --out "$OUT" --commit "what git describe --always --dirty says"
#
# --tiny tries all of it on a CPU with tiny shapes, in some three minutes on two cores; CI does (make gpu-bench
# GPU_ARGS=--tiny). Its page goes into --out, or into a new temporary folder.
set -euo pipefail
export PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -uP -m benchmarks.gpu "$@"

PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# DeepSpeed's CPU operator is compiled once, for an environment without a GPU, and stays with it.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true
ifeq ($(shell nvidia-smi -L 2>/dev/null),)
export DS_ACCELERATOR ?= cpu
endif

.DEFAULT_GOAL := help
.PHONY: help venv processors operators demo demo-full demo-teacher test test-slow test-cpus test-gpu lint docs bench gpu-bench dashboard

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

venv: $(STAMP) ## .venv with caad-ds and its pinned dependencies

$(STAMP): setup.py pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -c constraints.txt torch
	$(RUN) -m pip install -c constraints.txt -e '.[demo,test,dev]'
	$(RUN) -c 'from deepspeed.comm.torch import build_shm_op; build_shm_op()' >$(VENV)/cpu_op.log 2>&1 || \
		echo "DeepSpeed's CPU op is not compiled ($(VENV)/cpu_op.log says why); the first training tries again"
	touch $@

# Without their own requirements: torchvision asks for the newest PyTorch, mistral-common for an older NumPy.
processors: venv ## what the processors of some audio LLMs import (torchaudio, torchvision, mistral-common), for tests
	$(RUN) -m pip install -q -c constraints.txt jsonschema 'pydantic-extra-types[pycountry]' tiktoken
	$(RUN) -m pip install -q -c constraints.txt --no-deps mistral-common torchaudio torchvision
	$(RUN) -m tests.without_cuda

# On one core, to be run beside something else.
operators: venv ## DeepSpeed's operators for a teacher on NVMe, compiled before a run asks for them
	MAX_JOBS=1 $(RUN) -c 'from deepspeed.accelerator import get_accelerator; get_accelerator().create_op_builder("AsyncIOBuilder").load()'

demo: venv ## standard KD and CAAD from the shipped teacher: table, picture, MLflow curves
	$(RUN) -u -m examples.demo run $(DEMO_ARGS)

demo-full: venv ## every control and ablation, 3 teacher seeds x 3 student seeds
	$(RUN) -u -m examples.demo full

demo-teacher: venv ## make the shipped teacher again
	$(RUN) -u -m examples.demo teacher

# Each process takes one file of tests after another, whose fixtures it shares; each test computes on one thread. Three
# processes keep two cores busy while one waits for a launcher or a server; the longest files come first (tests/conftest.py).
PYTEST := $(RUN) -m pytest -n $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder

test: venv ## the test suite, in three processes (WORKERS=n for another number)
	$(PYTEST)

test-slow: venv ## what takes longer: NVMe and CPU-optimizer offload, more resumes
	$(PYTEST) -m slow

test-cpus: venv ## the numeric tests with other vector instructions and numbers of threads, as other machines compute
	$(RUN) -m tests.cpus

test-gpu: venv ## what a GPU computes: the loss, its Triton kernel natively, evaluation
	$(RUN) -m pytest tests/loss tests/evaluation

lint: venv ## ruff, mypy, the order of imports, and no conflict of a merge left behind
	! git grep -nE '^(<{7}|>{7}) '
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) -m mypy

docs: venv ## the documentation as a site, in site/; a broken link or a missing name is an error
	$(RUN) -m pip install -q -c constraints.txt -e '.[docs]'
	$(VENV)/bin/zensical build --strict --clean

bench: venv ## the benchmarks, with their tables
	$(RUN) -u -m benchmarks

gpu-bench: venv ## the GPU benchmarks, in eleven minutes; GPU_ARGS=--tiny tries them on a CPU
	PYTHON=$(RUN) benchmarks/gpu.sh $(GPU_ARGS)

dashboard: venv ## MLflow's curves of the runs of this folder; it prints the address (DASHBOARD_ARGS=--open: in a browser)
	$(RUN) -u -m caad_ds dashboard $(DASHBOARD_ARGS)

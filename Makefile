# `make help` lists the targets. PYTHON chooses the interpreter that makes the virtual environment.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# half of the processor's cores, for two trainings side by side (faster than one after the other on all of them)
HALF = $(shell $(PYTHON) -c 'import os; print(max(1, os.cpu_count() // 2))')
preset ?= tiny
name ?= tiny
stage ?= all
benchmark ?= qbench-video
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo train eval table ablation test test-all lint format parity bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.done ## virtual environment with everything pinned
$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("error: $(PYTHON) is Python " + sys.version.split()[0] + ", 3.10 or newer is needed: make setup PYTHON=<newer>")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --no-compile torch==2.13.0 -c constraints.txt
	$(RUN) -m pip install -q --no-compile -e ".[dev]" -c constraints.txt
	touch $@

demo: setup ## embedded default: data, all stages, evaluation, report (minutes on two CPU cores; continues after a kill)
	$(RUN) train.py stage=all
	$(MAKE) --no-print-directory ablation
	$(RUN) eval.py benchmark=all

train: setup ## stage=<name> or all, preset=tiny|paper, ARGS="key=value ..."
	$(RUN) train.py stage=$(stage) preset=$(preset) $(ARGS)

eval: setup ## benchmark=<name> or all, ARGS="key=value ..."
	$(RUN) eval.py benchmark=$(benchmark) $(ARGS)

table: setup ## table=vqa2-2 ... qrouter-qbench: a paper's table beside ours (ablations with preset=tiny train); none: the last evaluation
ifdef table
	$(RUN) table.py table=$(table) preset=$(preset) $(ARGS)
else
	@test -f runs/$(name)/eval/report.md || { echo "error: runs/$(name)/eval/report.md: no evaluation yet; run make eval first" >&2; exit 2; }
	@cat runs/$(name)/eval/report.md
endif

ablation: setup ## temporal distortions with and without motion tokens (two short trainings, same data and steps)
	$(RUN) train.py stage=base
	OMP_NUM_THREADS=$(HALF) $(MAKE) --no-print-directory -j2 motion-on motion-off

# the arms of the ablation
.PHONY: motion-on motion-off
TEMPORAL = samples=0 benchmark=distortion 'benchmarks.distortion.files=[distortion_temporal.test.jsonl]'
motion-on: ## (ablation) the arm with motion tokens
	$(RUN) train.py stage=distortion name=$@ hparams@stage=ablation/motion
	$(RUN) eval.py run=$@ $(TEMPORAL)
# It runs beside motion-on; two progress bars would overwrite each other.
motion-off: ## (ablation) the arm without motion tokens
	@mkdir -p runs
	@echo "motion-off runs beside it, its output is in runs/$@.log"
	@{ $(RUN) train.py stage=distortion name=$@ hparams@stage=ablation/motion model.use_motion=false && \
	$(RUN) eval.py run=$@ $(TEMPORAL); } > runs/$@.log 2>&1 || { cat runs/$@.log >&2; exit 2; }

test: setup ## the tests, a few minutes
	$(RUN) -m pytest -q -n 2

test-all: setup ## also the slow ones
	$(RUN) -m pytest -q -m "slow or not slow"

lint: setup ## ruff: rules and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup ## ruff: mend format and imports
	$(RUN) -m ruff check --fix -q .
	$(RUN) -m ruff format -q .

parity: setup ## differences from the official code, stage by stage (whole with ../shared/data/reference)
	$(RUN) tests/model/reference.py

bench: setup ## timing comparisons, each a ratio of two sides in one run (the last one on the model of make demo)
	$(RUN) benchmarks/decode.py
	$(RUN) benchmarks/motion.py
	$(RUN) benchmarks/train_step.py
	$(RUN) benchmarks/eval.py

clean: ## remove runs, data and caches (not the virtual environment)
	rm -rf runs data outputs wandb .pytest_cache .ruff_cache

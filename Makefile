# `make demo` and `make test` work on a fresh machine: both create .venv and install what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .peers
OPTIONS ?=
DEMO_OUT ?= runs/demo
KILLS ?= 100
FEW_KILLS ?= 20
FAULTS ?= runs/faults
FAULT_JOBS ?= 2
# Tests run in so many processes, each a file at a time in the order of tests/conftest.py; 0 runs them in one.
TEST_JOBS ?= 2

.PHONY: help demo demo-segment demo-detect test lint types lock audit faults benchmarks bench gpu results clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "fmce needs Python 3.11 or newer; set PYTHON=…"'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo-segment: $(STAMP)  ## function matching on built-in road scenes; writes runs/demo-segment/report.html
	$(BIN)/fmce demo --task segment --out runs/demo-segment

demo-detect: $(STAMP)  ## the same for detection; writes runs/demo-detect/report.html
	$(BIN)/fmce demo --task detect --out runs/demo-detect

demo: $(STAMP)  ## the whole method on handwritten digits; writes runs/demo/report.html
	$(BIN)/fmce demo --out $(DEMO_OUT)

test: $(STAMP)  ## all tests (those on real data sets need FMCE_DATA)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## ruff: lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

lock: $(STAMP)  ## write the exact versions of this environment to requirements-dev.lock
	@{ head -2 requirements-dev.lock; $(BIN)/python -m pip freeze --exclude-editable; } > .lock.tmp && mv .lock.tmp requirements-dev.lock

audit: $(STAMP)  ## look up known holes of the locked versions; needs the network
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --requirement requirements-dev.lock --no-deps --disable-pip

faults: $(STAMP)  ## kills, damages, hostile inputs, lacks, fuzzing: one table (docs/trust.md); a rerun resumes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --state $(FAULTS) --kills $(KILLS) --few-kills $(FEW_KILLS) --jobs $(FAULT_JOBS)

benchmarks: $(STAMP)  ## speed as ratios to bare loops
	$(BIN)/python -m benchmarks.step_overhead
	$(BIN)/python -m benchmarks.recorder
	$(BIN)/python -m benchmarks.ral_step
	$(BIN)/python -m benchmarks.matching_step
	$(BIN)/python -m benchmarks.map_throughput

bench: $(PEERS)/.installed  ## one table of ratios to peers, 9 minutes; OPTIONS=--quick takes 3
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m benchmarks.bench $(OPTIONS)

# Beside .venv, whose packages it sees too.
$(PEERS)/.installed: $(STAMP) benchmarks/peers.txt
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	@$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' > "$$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/rest.pth"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	@touch $(PEERS)/.installed

gpu:  ## what needs a GPU, in 9 minutes: tests, speeds, rows; needs no .venv (benchmarks/gpu/README.md)
	benchmarks/gpu/run.sh --minutes 9

results: $(STAMP)  ## make the tables of README.md, docs/results.md and docs/performance.md from results/, check the findings
	$(BIN)/python -m experiments.results_page

clean:  ## remove caches (keeps .venv and runs)
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# `make demo` and `make test` work on a bare clone: they make .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN = $(VENV)/bin

# Two processes of one thread each: most tests are too small for torch to use a second core. A file's tests stay in one
# process, which makes their fixtures once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-explore test-torch test-cuda notebooks test-lmms lmms-env fuzz fuzz-guided soak bench lint docs clean

demo: $(VENV)/.installed
	$(BIN)/vl3ref ask docs/media/tinyworld/moves.mp4 "Where does the red circle move?"
	$(BIN)/vl3ref ask docs/media/tinyworld/turns.mp4 "When does the cross turn yellow?"
	$(BIN)/vl3ref ask docs/media/tinyworld/blinks.mp4 "How often does the triangle appear?"
	$(BIN)/vl3ref ask docs/media/tinyworld/chart.png "How high is the green bar?"
	$(BIN)/vl3ref ask docs/media/tinyworld/form.png "How much is the tea?"
	mkdir -p build
	$(BIN)/vl3ref inspect docs/media/bunny.mp4 --out build/bunny.inspect.png

# The same cases in every run.
test: $(VENV)/.installed-test lint
	$(PYTEST) --ignore tests/notebooks
	$(PYTEST) --dist load tests/notebooks

# Run all notebooks and keep their outputs, or make notebooks N="4 5".
notebooks: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python scripts/build_notebooks.py $(N)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# Hypothesis tests alone, with new cases in every run and twenty times as many.
test-explore: $(VENV)/.installed-test
	HYPOTHESIS_PROFILE=explore $(PYTEST) -m "hypothesis and not slow"

# Another torch, in an environment of its own: the oldest that pyproject.toml allows, or make test-torch TORCH=2.14.1
TORCH ?= 2.6.0
test-torch: VENV = build/torch-$(TORCH)
test-torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==$(TORCH) -e ".[test]"
	$(PYTEST)

# With the torch that is there: the one that constraints.txt pins knows no GPU.
test-cuda:
	$(PYTHON) -m pytest -m cuda

# lmms-eval and transformers as their users have them, with torchvision and torchcodec, beside vl3ref: 6 GB. pip warns that
# lmms-eval wants an older av (see pyproject.toml).
LMMS_VENV ?= .venv-lmms
lmms-env:
	$(PYTHON) -m venv $(LMMS_VENV)
	$(LMMS_VENV)/bin/python -m pip install --quiet "torch==2.11.*" "torchvision==0.26.*" "torchcodec==0.11.*" \
		"lmms-eval==0.7.*" "transformers==5.23.*"
	$(LMMS_VENV)/bin/python -m pip install --quiet -e ".[lmms-eval]" pytest hypothesis beartype

# The adapter under the real lmms-eval.
test-lmms:
	OMP_NUM_THREADS=1 $(LMMS_VENV)/bin/python -m pytest -m slow tests/integrations

# Mutated files, checkpoints, annotations and conversations for an hour, or make fuzz SECONDS=600
SECONDS ?= 3600
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.fuzz --seconds $(SECONDS) --seed $$(date +%s)

# The same for our own code alone, guided by what it covers; on Linux.
fuzz-guided: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.robustness.guided build/corpus -max_total_time=$(SECONDS)

# Many requests, threads, interrupts and kills: about an hour. Its short version is a test.
soak: $(VENV)/.installed-test
	$(BIN)/python -m scripts.soak

# Time and memory beside transformers: docs/results/bench-cpu.md. A single row: .venv/bin/python -m benchmarks vision
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --compiled

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins torch to a CPU build; without it pip would fetch gigabytes of CUDA.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[plots]"
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	@touch $@

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

# make demo: the main job. make test: lint, types and tests. Both set up .venv on a fresh machine and reuse it after.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export HF_DATASETS_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-all lint format env clean

env: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[demo,eval,train,test]'
	touch $@

demo: $(STAMP)
	TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/python -m vislex.benchmarks.demo

test: lint
	$(BIN)/python -m pytest -n logical --dist loadfile -m "not slow"

# The fuzzer has wheels for some platforms only; without one its tests skip.
test-all: lint
	-$(BIN)/python -m pip install --quiet --only-binary atheris --editable '.[fuzz]'
	$(BIN)/python -m pytest -n logical --dist loadfile --summary=benchmarks/results/test_all.json

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	rm -rf build/types && mkdir -p build/types/vislex
	for entry in "$(CURDIR)"/vislex/*; do ln -s "$$entry" build/types/vislex/; done
	for room in adapters recipes benchmarks; do ln -s "$(CURDIR)/$$room" build/types/vislex/$$room; done
	cd build/types && "$(abspath $(BIN))/python" -P -m mypy --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p vislex

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

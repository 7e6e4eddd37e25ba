# Everything a newcomer types. Targets install what they need into .venv and nothing elsewhere.

PYTHON     ?= python3
VENV       ?= .venv
REPOSITORY ?= model_repository
PYTEST     ?= -q
BENCH      ?=

BIN := $(VENV)/bin
MANIFESTS := pyproject.toml clients/python/pyproject.toml

# onnxruntime uploads telemetry unless told not to, before it is imported.
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow bench lint format proto clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.serving ## invert and edit a real photograph through the gateway, write demo/edits.png
	@$(BIN)/python clients/python/examples/demo.py --repository $(REPOSITORY)

serve: $(VENV)/.serving ## the gateway: gRPC on 8500, HTTP on 8080
	INDOMAIN_MODEL_REPOSITORY=$(REPOSITORY) exec $(BIN)/python -m serving

test: $(VENV)/.all ## the tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow" $(PYTEST)

test-slow: $(VENV)/.all ## only the slow tests
	$(BIN)/python -m pytest -m slow $(PYTEST)

bench: $(VENV)/.all ## side-by-side measurements, one table
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.all ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.all ## rewrite the sources in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.all ## generate the wire types from clients/proto
	$(BIN)/python -m grpc_tools.protoc -I clients/proto --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=clients/python --pyi_out=clients/python --grpc_python_out=clients/python \
	  --mypy_grpc_out=clients/python clients/proto/indomain/v1/editing.proto

clean: ## remove the environment and what tools leave behind
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- environment -------------------------------------------------------------------------------------
# The SDK and the application are installed in one command, so that pip finds the one for the other.
# The stamps make a second run cost nothing; an edited pyproject.toml makes them stale.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: $(MANIFESTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e 'clients/python[cli]' -e .
	@touch $@

$(VENV)/.all: $(MANIFESTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e 'clients/python[cli]' -e '.[training,export,dev]'
	@touch $(VENV)/.serving $@

# Everything a newcomer types. Targets install what they need into .venv and nothing elsewhere.

PYTHON     ?= python3
VENV       ?= .venv
REPOSITORY ?= model_repository
PYTEST     ?= -q
JOBS       ?= 2
BENCH      ?=

BIN := $(VENV)/bin
MANIFESTS := pyproject.toml clients/python/pyproject.toml

# onnxruntime uploads telemetry unless told not to, before it is imported.
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-slow faults fuzz attack bench bench-refine bench-engines bench-serving bench-observing bench-capacity bench-studio bench-triton bench-gpu bench-bulk photographs quality edits scale baselines ablations evaluate train-faces64 train-faces128 lint format proto reference lock images clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.serving ## invert and edit a real photograph through the gateway, write demo/edits.png
	@$(BIN)/python clients/python/examples/demo.py --repository $(REPOSITORY)

serve: $(VENV)/.serving ## the gateway: gRPC on 8500, HTTP and the studio on 8080
	INDOMAIN_MODEL_REPOSITORY=$(REPOSITORY) exec $(BIN)/python -m serving

# Each of the processes has one thread: two that spin for one core are slower than one.
test: $(VENV)/.all ## the tests, without the slow ones, in JOBS processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(PYTEST)

test-slow: $(VENV)/.all ## only the slow tests
	$(BIN)/python -m pytest -m slow $(PYTEST)

faults: $(VENV)/.all ## what breaks, broken: servers killed, disks full, overload; a table of what became of requests
	$(BIN)/python -m pytest tests/serving -m fault $(PYTEST)

FUZZ_INPUTS ?= 25000
fuzz: $(VENV)/.all ## 200,000 damaged pictures, messages, bodies, forms, paths, sessions, sizes at bounds; FUZZ_INPUTS for each of the eight
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/python -m pytest tests/serving/transports/test_fuzz.py -s $(PYTEST)

attack: $(VENV)/.all ## twenty attacks on a running gateway, on loopback; a table of what each did
	$(BIN)/python -m benchmarks.attack $(BENCH)

bench-refine: $(VENV)/.all ## [DATA=val.zip]: refinements by their time to one loss
	$(BIN)/python -m benchmarks.refine $(if $(DATA),--data $(DATA)) $(BENCH)

bench-capacity: $(VENV)/.all ## how many machines a load takes: a simulation, beside the gateway
	$(BIN)/python -m benchmarks.capacity $(BENCH)

bench-observing: $(VENV)/.all ## what metrics, log lines and traces cost
	$(BIN)/python -m benchmarks.observing $(BENCH)

bench-triton: $(VENV)/.all ## ways to a Triton server: the bare client, the back end, shared memory
	$(BIN)/python -m benchmarks.triton --repository $(REPOSITORY) $(BENCH)

bench-gpu: $(VENV)/.all ## a GPU beside PyTorch, and through the gateway; BENCH="--device cpu --resolutions 32 --batches 1 2" tries it
	$(BIN)/python -m benchmarks.gpu $(BENCH)

bench-bulk: $(VENV)/.all ## the command line with a folder of pictures, beside one request after another
	$(BIN)/python -m benchmarks.bulk $(BENCH)

photographs: $(VENV)/.all ## ten photographs edited and pasted back, on one sheet
	$(BIN)/python -m benchmarks.photographs $(BENCH)

bench: $(VENV)/.all ## side-by-side measurements, one table
	$(BIN)/python -m benchmarks $(BENCH)

bench-engines: $(VENV)/.all ## every graph on every engine here, what is chosen, how soon a gateway starts
	$(BIN)/python -m benchmarks.engines --repository $(REPOSITORY) $(BENCH)

bench-studio: $(VENV)/.all ## how soon a slider's picture is seen in a browser; needs a Chromium
	$(BIN)/python -m benchmarks.studio --repository $(REPOSITORY) $(BENCH)

bench-serving: $(VENV)/.all ## [BENCH="--triton start"]: a gateway under load, beside what lies under it
	$(BIN)/python -m benchmarks.serving $(BENCH)

quality: $(VENV)/.all ## DATA=pictures.zip: how well they are inverted, through the graphs
	$(BIN)/python -m benchmarks.quality --repository $(REPOSITORY) --data $(DATA) $(BENCH)

edits: $(VENV)/.all ## TRAIN=, TRAIN_CSV=, DATA=[, DATA_CSV=]: do directions move what they are named for?
	$(BIN)/python -m benchmarks.edits --repository $(REPOSITORY) --train $(TRAIN) --train-attributes $(TRAIN_CSV) \
	  --data $(DATA) $(if $(DATA_CSV),--data-attributes $(DATA_CSV)) $(BENCH)

scale: $(VENV)/.all ## StyleGAN2 of up to 1024 px through import, export and decoding; what 16 bits cost and save
	$(BIN)/python -m benchmarks.scale $(BENCH)

# Recipes train in stages, and go on in the stage where they were interrupted. What they hold: training/recipes/.
RECIPE = $(BIN)/python -m training recipe training/recipes

RUNS ?= runs/faces64
train-faces64: $(VENV)/.all ## TRAIN=, TRAIN_CSV=: generator, encoder and directions of faces64, then the bundle
	$(RECIPE)/faces64.toml --data $(TRAIN) --attributes $(TRAIN_CSV) --runs $(RUNS)
	$(BIN)/python -m export bundle $(RUNS)/00001-inversion-faces64 --to $(REPOSITORY)

RUNS128 ?= runs/faces128
train-faces128: $(VENV)/.all ## TRAIN=, TRAIN_CSV=: the same at 128 pixels, on a GPU
	$(RECIPE)/faces128.toml --data $(TRAIN) --attributes $(TRAIN_CSV) --runs $(RUNS128)
	$(BIN)/python -m export bundle $(RUNS128)/00002-mapping-faces128 --to $(REPOSITORY)

# The shipped checkpoint has the name of the shipped bundle.
GAN         ?= training/checkpoints/$(basename $(notdir $(wildcard $(REPOSITORY)/*.json)))
BASELINES   ?= runs/baselines
BASE_IMAGES ?= 6400
ENCODERS     = --gan $(GAN) --data $(TRAIN) --validation $(DATA) --runs $(BASELINES) --images $(BASE_IMAGES)
baselines: $(VENV)/.all ## TRAIN=, DATA=: encoders by every method, for `evaluate`
	$(RECIPE)/baselines.toml $(ENCODERS)

ablations: $(VENV)/.all ## TRAIN=, DATA=: more encoders into the same folder, with one setting changed each
	$(RECIPE)/ablations.toml $(ENCODERS)

evaluate: $(VENV)/.all ## TRAIN=, TRAIN_CSV=, DATA=, DATA_CSV=: the table of methods, from the encoders of `baselines`
	$(BIN)/python -m training evaluate $(sort $(wildcard $(BASELINES)/*-inversion-*)) --data $(DATA) --train $(TRAIN) \
	  --train-attributes $(TRAIN_CSV) --data-attributes $(DATA_CSV) --shown clients/python/examples \
	  --output $(BASELINES)/evaluation $(EVALUATE)

lint: $(VENV)/.all ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.all ## rewrite the sources in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.all ## write docs/api.md from the docstrings and the wire contract
	$(BIN)/python docs/reference.py

proto: $(VENV)/.all ## generate the wire types from clients/proto
	$(BIN)/python -m grpc_tools.protoc -I clients/proto --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=clients/python --pyi_out=clients/python --grpc_python_out=clients/python \
	  --mypy_grpc_out=clients/python --include_source_info \
	  --descriptor_set_out=clients/python/indomain/v1/editing.binpb clients/proto/indomain/v1/editing.proto

# LOCK=--upgrade takes the newest versions; without it, those in the files stay while they fit. Wheels only, so that
# nothing is built while the image is made. The second file holds what builds the two wheels of this repository.
LOCK ?=
COMPILE = $(BIN)/uv pip compile --quiet --no-config --custom-compile-command "make lock" --generate-hashes \
  --only-binary :all: --python-version 3.11 --python-platform linux $(LOCK)
lock: $(VENV)/.all ## [LOCK=--upgrade]: exact versions and hashes of what the image installs
	$(COMPILE) pyproject.toml --extra tracing --no-emit-package indomain-client --output-file requirements.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(COMPILE) - --output-file requirements-build.lock

images: ## pin the images of others by their digests; needs docker and its registries
	$(PYTHON) deploy/images.py

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

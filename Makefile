# make demo      a real model into an OCI layout, from nothing
# make test      everything that the tests need, then the tests
# make check     style, types, and the line between the folders
# make fuzz      20,000 mutated files a format, in ten minutes at most
# make bench     speed and memory, side by side with others; writes docs/benchmarks.md
# make docs      docs/rules.md from the rules
# make install   .venv with everything

PYTHON  ?= python3
BIN     := .venv/bin
MODEL   := .cache/models/smollm2-gguf
PICKLES := .cache/models/pickle
REAL    := .cache/models/real
CLIENTS := kserve modelcar modelpack olah
DEBIAN  := podman runc conmon catatonit containernetworking-plugins docker-registry skopeo umoci containerd busybox-static git

# podman, containerd, mounts and foreign owners want root
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

.PHONY: demo test check fuzz bench docs install components clean
.DELETE_ON_ERROR:

demo: .venv/.base $(MODEL)
	@scripts/debian.sh busybox-static
	@scripts/demo.sh $(MODEL) out

test: install components
	$(AS_ROOT) $(BIN)/pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: install components
	$(BIN)/python -m fuzz.run

bench: install components
	$(BIN)/python -m bench

docs: .venv/.base
	$(BIN)/python -m scripts.rules

install: .venv/.everything

components: $(CLIENTS:%=.cache/clients/%/.installed) $(MODEL) $(PICKLES) $(REAL) .cache/llama
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

$(MODEL): | .venv/bin/python
	scripts/model.sh $(BIN)/python $@

$(PICKLES): | .venv/bin/python
	scripts/pickle-models.sh $(BIN)/python $@

$(REAL): | .venv/bin/python
	scripts/real-models.sh $(BIN)/python $@

.cache/llama:
	$(AS_ROOT) scripts/llama.sh $@

clean:
	rm -rf out .cache .venv

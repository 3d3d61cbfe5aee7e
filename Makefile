# make demo     the whole way on synthetic hospitals: train together, privately, audit, review
# make test     all tests                     make check   format, lint, types, imports, tests
# make install  only install, into .venv      make clean   remove .venv and runs
#
# PYTHON=python3.12      another interpreter (3.11 or newer)
# PIP_ARGS="..."         more options for pip. A machine without an accelerator saves several
#                        GB with an index that offers PyTorch's CPU build: --extra-index-url URL
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet \
	--constraint constraints.txt $(PIP_ARGS)

# Flower asks home for news and counts its users unless told not to.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo test check lint install install-dev clean

demo: install
	$(BIN)/evenhand run configs/demo.toml

# Two at a time, each on one core; what starts processes and browsers runs alone.
test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/integration
	$(BIN)/python -m pytest tests/e2e

check: lint test

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# A virtual environment that was made half is worse than none: it looks finished to make.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Evenhand needs Python 3.11 or newer as '$(PYTHON)' (found:" \
			"$$($(PYTHON) --version 2>&1 || true)). Name another one: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: its modules venv and ensurepip are" \
			"missing. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Evenhand into $(VENV) (a minute or two the first time) ..."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what tests and checks need ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs

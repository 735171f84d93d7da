PYTHON ?= python3
ARGS   ?=

# Whatever the shell says, bytecode is written: tests start many processes, and each would compile the package anew.
export PYTHONDONTWRITEBYTECODE =

VENV      := .venv
IN_VENV   := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished

.DEFAULT_GOAL := help
.PHONY: help train test test-slow check docs bench release format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." goes on to train, test, test-slow and bench, such as: make train ARGS="device=cpu seed=1"'

train: $(INSTALLED)  ## train on the masked CartPole
	$(IN_VENV) -m seqrl.train experiment=masked_cartpole $(ARGS)

test: $(INSTALLED)  ## run the quick tests, on all cores
	$(IN_VENV) -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(INSTALLED)  ## run the slow tests, which train agents, and most cases of tests that have many
	$(IN_VENV) -m pytest -m slow $(ARGS)

check: $(INSTALLED)  ## check format, lint, types and known weaknesses of dependencies; change nothing
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m mypy
	$(IN_VENV) scripts/audit.py

docs: $(INSTALLED)  ## build the site into build/docs; a warning, such as a broken link, is an error
	$(IN_VENV) -m sphinx -W --keep-going -n -q -c docs -d build/doctrees . build/docs
	@echo 'Open build/docs/index.html'

bench: $(INSTALLED)  ## compare the speed with other libraries', which it installs apart; leave the machine alone meanwhile
	$(IN_VENV) scripts/bench.py outputs/bench $(ARGS)

release: $(INSTALLED)  ## check, build and try this version, and tag it here; nothing is pushed
	$(IN_VENV) scripts/release.py

format: $(INSTALLED)  ## format the code and apply fixes of the linter
	$(IN_VENV) -m ruff format .
	$(IN_VENV) -m ruff check --fix .

clean:  ## remove .venv, caches and build products; keep outputs/
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find conf scripts seqrl tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv of your own is kept; one whose install was interrupted has the mark of it, and is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	    { echo 'seqrl: error: $(PYTHON) is not installed. Install Python 3.11 to 3.13, or name one: make PYTHON=python3.12' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "seqrl: error: $(PYTHON) is $$($(PYTHON) -V 2>&1); seqrl needs 3.11 to 3.13. Name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo 'seqrl: error: $(PYTHON) cannot make a virtual environment. On Debian: apt install python3-venv' >&2; exit 2; }
	@test ! -e $(UNFINISHED) && $(IN_VENV) -m pip --version >/dev/null 2>&1 || \
	    { echo 'Making $(VENV) with $(PYTHON)'; $(PYTHON) -m venv --clear $(VENV); touch $(UNFINISHED); }
	@test ! -e $@ || { touch $(UNFINISHED); rm $@; }
	@echo 'Installing the pinned dependencies into $(VENV); the first time takes minutes'
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[dev]'
	@touch $@
	@rm -f $(UNFINISHED)

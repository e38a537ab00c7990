# A fresh clone needs Python 3.11 or later and a network; everything goes into .venv.
#   make demo ARGS="--port 8000"
#   make test ARGS="-k schedule"
#   PIP_ARGS goes to pip: an index of CPU wheels of torch, for instance (see README).
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
CODE := $(wildcard app.py app cdd_core benchmarks assets scripts tests)

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(VENV)/bin/python app.py $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -q $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check $(CODE)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; choose one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are younger than the requirements they were made from, so a pull that changes those installs again.
# The interpreter only has to be there: its date says nothing.
$(VENV)/.installed: requirements.txt constraints.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(INSTALL) -r requirements-dev.txt
	@touch $@

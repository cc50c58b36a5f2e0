# make demo   the whole loop on real digits, one page at the end        make test   the test suite with coverage
# make lint   format, lint and type checks                              make setup  only the environment
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test lint clean
.DELETE_ON_ERROR:

setup: $(VENV)/.runtime

# Each stamp is newer than pyproject.toml once its extras are installed, so nothing is installed twice.
$(VENV)/.runtime: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing flowfabric into $(VENV) (once; about a minute)"
	@$(PY) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/.runtime
	@$(PY) -m pip install --quiet --editable '.[$*]'
	@touch $@

demo: $(VENV)/.runtime
	@PATH="$(abspath $(VENV))/bin:$$PATH" bash configs/demo.sh

test: $(VENV)/.test
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report --fail-under=85

lint: $(VENV)/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright

clean:
	rm -rf $(VENV) runs .coverage* .pytest_cache .ruff_cache build *.egg-info

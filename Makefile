# Everything runs in .venv, which the first target makes: Python (3.11 to 3.13)
# and make are all that a machine needs. Another interpreter: make PYTHON=...
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# make test PLATFORM=cuda runs what can run there (with that JAX in VENV).
PLATFORM ?= cpu
export PLATFORM

.PHONY: help demo test test-slow dist test-wheel test-matrix test-clients test-oldest lint format bench tables clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "htga_optax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The demo needs far less than the tests, so it has a mark of its own.
$(VENV)/.demo: pyproject.toml
	test -e $(VENV)/.installed || ( $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --upgrade pip && \
	  $(BIN)/python -m pip install --quiet --editable '.[examples]' )
	touch $@

demo: $(VENV)/.demo  ## train on real data with HTGA and three others, plot it
	$(BIN)/python examples/quickstart.py

test: lint  ## lint, types, doctests and all tests that are not slow
	$(PYTEST) -n auto

test-slow: $(VENV)/.installed  ## the tests that take minutes
	$(PYTEST) -n auto -m slow

dist: $(VENV)/.installed  ## wheel and sdist
	rm -rf dist
	$(BIN)/python -m build

# The sdist's tests of the wheel in an empty venv; PINS are more requirements.
WHEEL := build/wheel
test-wheel: dist  ## what a user gets, with the newest dependencies
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/.venv
	$(WHEEL)/.venv/bin/python -m pip install --quiet --upgrade pip
	$(WHEEL)/.venv/bin/python -m pip install --quiet \
	  "$$(ls dist/*.whl)[dev]" $(PINS)
	tar -xzf dist/*.tar.gz -C $(WHEEL) --strip-components 1
	rm -r $(WHEEL)/htga_optax
	cd $(WHEEL) && .venv/bin/python -m pytest -n auto tests --pyargs htga_optax

test-oldest:  ## what a user gets, with the oldest dependencies
	$(MAKE) test-wheel WHEEL=build/oldest PINS="$(OLDEST)"

# Every Python and JAX that we promise, one after the other.
MATRIX := 3.11 3.12 3.13
test-matrix:  ## test-wheel on every Python, and test-oldest
	for version in $(MATRIX); do \
	  $(MAKE) test-wheel PYTHON=python$$version WHEEL=build/wheel-$$version \
	    || exit 1; \
	done
	$(MAKE) test-oldest PYTHON=python3.11

# In a venv of their own: what clients ask for is not for the other tests.
CLIENTS := build/clients
test-clients:  ## train in numpyro, blackjax, equinox, ... and run their pages
	test -d $(CLIENTS) || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --upgrade pip
	$(CLIENTS)/bin/python -m pip install --quiet --editable \
	  '.[clients,examples]' 'pytest>=8.3.1' 'pytest-timeout>=2.4' \
	  'pytest-xdist>=3.6.1'
	$(CLIENTS)/bin/python -m pytest -n auto -m 'slow or not slow' tests/clients \
	  tests/test_readme.py

# The lower bounds of pyproject.toml.
OLDEST := jax==0.7.0 jaxlib==0.7.0 optax==0.2.6 flax==0.11.2 chex==0.1.90 \
  matplotlib==3.9.0 rich==13.9.1 scikit-learn==1.6.0 scipy==1.15.0 \
  array-record==0.8.1 importlib-resources==6.0.0 pillow==11.0.0 \
  tensorflow-datasets==4.9.9 orbax-checkpoint==0.12.8 tensorboardX==2.6.2.2 \
  wandb==0.22.0 pytest==8.3.1 pytest-xdist==3.6.1

lint: $(VENV)/.installed  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/.installed  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## speed, as ratios to named opponents in one run
	$(PYTEST) -q -p no:xdist -o python_files="bench_*.py" benchmarks

tables: $(VENV)/.installed  ## what holds how often: the other tables of benchmarks
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/estimates.py
	$(BIN)/python benchmarks/false_alarms.py

clean:  ## remove what was made
	rm -rf .venv build dist .pytest_cache .ruff_cache

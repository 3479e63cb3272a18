# A machine needs only make and Python (3.11 to 3.13). The targets make .venv and
# run everything in it. Another interpreter: make PYTHON=...
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# make test PLATFORM=cuda runs the tests that work on a GPU. VENV needs a JAX for
# that platform.
PLATFORM ?= cpu
export PLATFORM

.PHONY: help demo test test-slow dist test-wheel test-matrix test-clients test-oldest lint format bench tables docs clean
help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "htga_optax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The demo needs fewer packages than the tests, so it has its own target.
$(VENV)/.demo: pyproject.toml
	test -e $(VENV)/.installed || ( $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --upgrade pip && \
	  $(BIN)/python -m pip install --quiet --editable '.[examples]' )
	touch $@

demo: $(VENV)/.demo  ## train on images and on a heavy-tailed task, and plot it
	$(BIN)/python examples/quickstart.py
	$(BIN)/python examples/heavy_noise.py

test: lint  ## lint, check types, run doctests and all tests that are not slow
	QUICK_COMPILE=1 $(PYTEST) -n auto

test-slow: $(VENV)/.installed  ## run the tests that take minutes
	$(PYTEST) -n auto -m slow

dist: $(VENV)/.installed  ## build wheel and sdist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Installs the wheel in an empty venv and runs the tests of the sdist on it. PINS
# adds requirements.
WHEEL := build/wheel
test-wheel: dist  ## test the built wheel with the newest dependencies
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)/.venv
	$(WHEEL)/.venv/bin/python -m pip install --quiet --upgrade pip
	$(WHEEL)/.venv/bin/python -m pip install --quiet \
	  "$$(ls dist/*.whl)[dev]" $(PINS)
	tar -xzf dist/*.tar.gz -C $(WHEEL) --strip-components 1
	rm -r $(WHEEL)/htga_optax
	cd $(WHEEL) && .venv/bin/python -m pytest -n auto tests --pyargs htga_optax

test-oldest:  ## test the built wheel with the oldest dependencies
	$(MAKE) test-wheel WHEEL=build/oldest PINS="$(OLDEST)"

# Every supported Python, then the oldest supported JAX.
MATRIX := 3.11 3.12 3.13
test-matrix:  ## run test-wheel on every Python, then test-oldest
	for version in $(MATRIX); do \
	  $(MAKE) test-wheel PYTHON=python$$version WHEEL=build/wheel-$$version \
	    || exit 1; \
	done
	$(MAKE) test-oldest PYTHON=python3.11

# The clients get their own venv, so that their requirements do not change the
# versions that the other tests use.
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
  matplotlib==3.9.0 rich==13.9.1 scikit-learn==1.6.0 scipy==1.16.0 \
  array-record==0.8.1 importlib-resources==6.0.0 pillow==11.0.0 \
  tensorflow-datasets==4.9.9 orbax-checkpoint==0.12.8 tensorboardX==2.6.2.2 \
  wandb==0.22.0 pytest==8.3.1 pytest-xdist==3.6.1

lint: $(VENV)/.installed  ## run ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/.installed  ## rewrite the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## measure speed, as ratios to named opponents in the same run
	$(PYTEST) -q -p no:xdist -o python_files="bench_*.py" benchmarks

tables: $(VENV)/.installed  ## make the tables on accuracy, coverage and false alarms
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/estimates.py
	$(BIN)/python benchmarks/false_alarms.py

# Sphinx and the notebooks need no more than the examples, and no network.
$(VENV)/.docs: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## build the documentation as a site in build/docs
	rm -rf build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -j auto docs build/docs
	@echo "open build/docs/index.html"

clean:  ## remove venv, builds and caches
	rm -rf .venv build dist .pytest_cache .ruff_cache

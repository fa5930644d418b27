# Two commands on a fresh machine: `make book` builds the website, `make serve` opens it.
# `make help` lists all verbs. Needs Python 3.11 or newer and make; everything else is installed
# into .venv. On a machine with several Pythons: make PYTHON=python3.12 book

PYTHON ?= python3
PORT ?= 8000
# The torch release that the lock names: the one that the site and the tests are made with.
LOCK_TORCH ?= 2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SITE := _build/.site-is-built
SOURCES := _config.yml constraints.txt pyproject.toml \
	$(shell find book helpers -type f ! -path '*/__pycache__/*' ! -path '*/.ipynb_checkpoints/*')

.PHONY: help book serve test bench lock address clean
.DELETE_ON_ERROR:

help:
	@echo 'make book     install what is missing, run every chapter on the CPU, build the website'
	@echo 'make serve    open the built website on this machine (PORT=8000)'
	@echo 'make test     the whole test suite, the built website in a browser included'
	@echo 'make bench    the speed benchmarks; run nothing else meanwhile'
	@echo 'make lock     renew the pinned versions in constraints.txt from pyproject.toml'
	@echo 'make address  write the address of your fork into every place that names it'
	@echo 'make clean    remove the built website'

book: $(SITE)
	@echo
	@echo 'The website is built. Open it with: make serve'
	@echo 'or open this file in a browser:     $(CURDIR)/_build/html/index.html'

serve:
	@test -f _build/html/index.html || { echo 'There is no website yet. Run: make book'; exit 1; }
	@echo 'The website is at http://localhost:$(PORT) (stop with Ctrl+C)'
	@$(BIN)/python -m webbrowser http://localhost:$(PORT) >/dev/null 2>&1 || true
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# First what is quick to fail, then the chapters, then the pages that they became.
test: $(VENV)/.test-installed
	$(BIN)/python tests/website/chromium.py
	$(BIN)/python -m pytest -n 2 --dist loadscope --ignore tests/website
	$(MAKE) book
	$(BIN)/python -m pytest -n 2 tests/website

bench: $(VENV)/.test-installed
	$(BIN)/python tests/benchmarks/run.py

# Always from nothing: after an edit of helpers, cached outputs would be yesterday's, and with
# warnings as errors a second, incremental build passes where the first one failed.
$(SITE): $(SOURCES) | $(VENV)/.book-installed
	rm -rf _build
	HELPERS_STATIC_SITE=1 HELPERS_PROFILE=quick \
		$(BIN)/jupyter-book build --warningiserror --keep-going book
	@touch $@

$(VENV)/.book-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing the pinned packages into $(VENV); the first time, this takes minutes.'
	$(PIP) -e '.[book]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing the pinned packages into $(VENV); the first time, this takes minutes.'
	$(PIP) -e '.[book,test]'
	@touch $@ $(VENV)/.book-installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "This course needs Python 3.11 or newer; '$(PYTHON)' is not. If you have another,"; \
		echo 'name it: make PYTHON=python3.12 book'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'Python could not make a virtual environment (see above).'; \
		echo 'On Debian and Ubuntu, this package is missing: python3-venv'; exit 1; }

# The lock names no CUDA packages and no build of torch, so that one file serves machines with
# and without a GPU: pip takes what torch itself asks for.
lock: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --upgrade \
		--upgrade-package 'torch==$(LOCK_TORCH)' --extra book --extra test --strip-extras \
		--allow-unsafe --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-emit-options --output-file $(VENV)/constraints.txt pyproject.toml
	sed -E -e '/^(nvidia-|cuda-|triton)/d' -e 's/^(torch==[0-9.]+)\+.*/\1/' \
		$(VENV)/constraints.txt > constraints.txt

address: | $(BIN)/python
	$(BIN)/python book/_ext/address.py $(REPOSITORY_URL)

clean:
	rm -rf _build

# Everything runs in .venv. Each target first asks tools/setup_env.py for what it needs, which takes seconds when all is there.
PYTHON ?= python3
RUN = .venv/bin/python
TASK ?= segmentation
REPORT ?= report.html
BROWSER ?= chromium
# PYTHON=... is obeyed or refused by the script, which any Python 3 can run. An interpreter that was asked for by name replaces
# the environment's; the default one does not.
SETUP = $(or $(shell command -v python3),$(shell command -v '$(PYTHON)'),$(error Python 3 is needed and was not found)) \
	tools/setup_env.py $(if $(filter file,$(origin PYTHON)),,--python '$(PYTHON)') $(if $(TORCH),--torch '$(TORCH)')
SOURCES = mmparax tools tests configs demo setup.py
PYTEST = $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Two targets that fill .venv at the same time would break it.
.NOTPARALLEL:
.PHONY: help setup quickstart compare benchmark test test-full lint format check-report clean

help:
	@echo 'make quickstart   set up, train AdaRoute on small scenes, evaluate, draw a picture (minutes on 2 cores)'
	@echo '                  TASK=segmentation (default), detection, panoptic or classification'
	@echo 'make compare      the same for Frozen, AdaRoute and full fine-tuning, three seeds each'
	@echo 'make benchmark    training speed and memory beside full fine-tuning, Swin-B and ConvNeXt-B (under 5 minutes on 2 cores)'
	@echo 'make test         set up and run the tests (under 10 minutes on 2 cores)'
	@echo 'make test-full    the tests that take longer, too'
	@echo 'make lint         lint, format, types and the order of the rooms (needs neither torch nor a compiler)'
	@echo 'make format       sort imports, format and fix what can be fixed'
	@echo 'make check-report look at REPORT=report.html in a headless BROWSER=chromium'
	@echo 'make setup        only set up'
	@echo 'PYTHON=python3.11 chooses the interpreter (3.10-3.13)'
	@echo 'TORCH=cpu, cu126, cu130 or installed chooses the build of PyTorch (without: the one of PyPI)'

setup:
	@$(SETUP) runtime

quickstart: setup
	@$(RUN) tools/quickstart.py --task $(TASK)

compare: setup
	@$(RUN) tools/quickstart.py --task $(TASK) --compare

benchmark: setup
	@$(RUN) tools/analysis_tools/benchmark.py --preset cpu

test:
	@$(SETUP) runtime tests
	@$(PYTEST)

test-full:
	@$(SETUP) runtime tests full
	@$(PYTEST) -m ''

lint:
	@$(SETUP) dev
	@$(RUN) -m ruff check
	@$(RUN) -m yapf --diff --recursive --parallel $(SOURCES)
	@$(RUN) -m mypy
	@.venv/bin/lint-imports --no-logo

format:
	@$(SETUP) dev
	@$(RUN) -m ruff check --fix --exit-zero
	@$(RUN) -m yapf --in-place --recursive --parallel $(SOURCES)

check-report: setup
	@$(RUN) tests/helpers/browser_check.py $(REPORT) --browser $(BROWSER)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache

# Everything runs in .venv, which `make setup` fills; it is called by every target and takes seconds when nothing is to do.
PYTHON ?= python3
RUN = .venv/bin/python
TASK ?= segmentation
REPORT ?= report.html
BROWSER ?= chromium
# An interpreter that was asked for by name replaces the environment's; the default one does not.
SETUP_FLAGS := $(if $(filter file,$(origin PYTHON)),,--this-python)

.PHONY: help setup quickstart compare benchmark test test-full check-report clean

help:
	@echo 'make quickstart   set up, train AdaRoute on small scenes, evaluate, draw a picture (minutes on 2 cores)'
	@echo '                  TASK=segmentation (default), detection, panoptic or classification'
	@echo 'make compare      the same for Frozen, AdaRoute and full fine-tuning, three seeds each'
	@echo 'make benchmark    training speed and memory beside full fine-tuning, Swin-B and ConvNeXt-B (under 5 minutes on 2 cores)'
	@echo 'make test         set up and run the tests (under 10 minutes on 2 cores)'
	@echo 'make test-full    the tests that take longer, too'
	@echo 'make check-report look at REPORT=report.html in a headless BROWSER=chromium'
	@echo 'make setup        only set up'
	@echo 'PYTHON=python3.11 chooses the interpreter (3.10-3.12)'

setup:
	@$(PYTHON) tools/setup_env.py $(SETUP_FLAGS)

quickstart: setup
	@$(RUN) tools/quickstart.py --task $(TASK)

compare: setup
	@$(RUN) tools/quickstart.py --task $(TASK) --compare

benchmark: setup
	@$(RUN) tools/analysis_tools/benchmark.py --preset cpu

test: setup
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-full: setup
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ''

check-report: setup
	@$(RUN) tests/helpers/browser_check.py $(REPORT) --browser $(BROWSER)

clean:
	rm -rf .venv build dist *.egg-info

# Everything from a fresh clone: Python >= 3.11, make and the package registry.  `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SDK2 := .venv-sdk2
SDK3 := .venv-sdk3
ORACLE := .venv-oracle
ORACLE3 := .venv-oracle3
# Two workers: more servers at once than cores tell nothing new.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench bench-decisions soak clean sdks browser promtool screenshots

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything that development needs

# Stamped by pyproject.toml: installs again only when it changed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Understudy needs Python >= 3.11; this is %s. Use make PYTHON=python3.12" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[demo,postgres]' --group dev
	@touch $@

demo: $(STAMP) ## two real models, one endpoint, an A/B test (make demo KEEP=1 leaves it serving)
	@$(BIN)/understudy demo $(if $(filter-out 0,$(KEEP)),--keep)

# The SageMaker SDKs and AWS's old XGBoost want versions that Understudy does not: an environment each.
$(SDK2)/.installed: | $(STAMP)
	test -x $(SDK2)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(SDK2)
	$(BIN)/uv pip install --quiet --python $(SDK2)/bin/python 'sagemaker<3'
	@touch $@

$(SDK3)/.installed: | $(STAMP)
	test -x $(SDK3)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(SDK3)
	$(BIN)/uv pip install --quiet --python $(SDK3)/bin/python 'sagemaker-core>=2,<3'
	@touch $@

# setuptools<80: xgboost 0.90 imports pkg_resources.
$(ORACLE)/.installed: | $(STAMP)
	test -x $(ORACLE)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(ORACLE)
	$(BIN)/uv pip install --quiet --python $(ORACLE)/bin/python 'xgboost==0.90' 'numpy<2' 'scipy<1.12' 'setuptools<80'
	@touch $@

$(ORACLE3)/.installed: | $(STAMP)
	test -x $(ORACLE3)/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(ORACLE3)
	$(BIN)/uv pip install --quiet --python $(ORACLE3)/bin/python 'xgboost-cpu==3.2.0' numpy
	@touch $@

sdks: $(SDK2)/.installed $(SDK3)/.installed $(ORACLE)/.installed $(ORACLE3)/.installed ## environments of the SDK journeys

test: $(STAMP) sdks browser promtool ## every test, journeys with real clients included
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## formatting, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure against peers (QUICK=1: under 5 minutes; ARGS="--only mosec")
	$(BIN)/python -m bench $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

bench-decisions: $(STAMP) ## right and wrong decisions of ours and others, simulated: docs/decision-bench.md (10 minutes; QUICK=1: two)
	PYTHONPATH=src:. $(BIN)/python -m bench.decisions $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

soak: $(STAMP) ## memory flat (MINUTES=10), all accounted for (REQUESTS=1000000), rollouts survive every fault; hours
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),10)
	$(BIN)/python -m bench.soak_capture --requests $(or $(REQUESTS),1000000)
	$(BIN)/python -m bench.soak_capture --durable --requests $(or $(REQUESTS),1000000)
	UNDERSTUDY_LIVES=20000 UNDERSTUDY_REGRESSIONS=500 $(BIN)/python -m pytest --timeout 3600 tests/core/test_rollout_simulation.py
	UNDERSTUDY_REQUESTS=100000 $(BIN)/python -m pytest tests/journeys/test_weights.py
	$(BIN)/python -m bench.soak_rollouts

browser: $(STAMP) ## a Chromium for the console's tests: the system's, Debian's package or Playwright's own
	@sh tests/tools.sh chromium $(abspath $(BIN))

promtool: $(STAMP) ## Prometheus's own tool for the tests of alert rules
	@sh tests/tools.sh promtool $(abspath $(BIN))

screenshots: $(STAMP) browser ## pictures of the console for docs/images
	$(BIN)/python docs/make_screenshots.py

clean: ## remove what the targets above made
	rm -rf $(VENV) $(SDK2) $(SDK3) $(ORACLE) $(ORACLE3) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test env check lint slow docs audit clean

demo: env  ## the main job on built-in data: pretrain, hand over, finetune, compare
	$(BIN)/python -m experiments study=first_look

test: env  ## the tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

slow: env  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

docs: env  ## the site, in site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

audit: env  ## known vulnerabilities of the pinned packages: a report, which needs a network
	test -d .audit || ($(PYTHON) -m venv .audit && .audit/bin/pip install --quiet pip-audit==2.9.0)
	.audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 5

check: lint test  ## lint, types and tests

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

env: $(STAMP)  ## the environment alone

$(STAMP): pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[tasks,zstd,speech,timm,export,loggers,docs,dashboard,tune,slurm,dev]"
	touch $(STAMP)

clean:
	rm -rf .venv .audit site

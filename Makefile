# Two commands do everything from a fresh clone: `make demo` and `make test`. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROGRAM := $(VENV)/.program
READY := $(VENV)/.ready
DOCS := .venv-docs

.PHONY: demo test tests test-servers setup format lint types contracts unit torture bench bench-page soak browser screenshots pages docs clean

setup: $(READY)

$(PROGRAM): pyproject.toml
	@echo "== setting up $(VENV): what the program needs, once"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchrunner needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $(PROGRAM)

$(READY): $(PROGRAM)
	@echo "== setting up $(VENV): what its tests and checks need, one minute, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m compileall -q batchrunner
	@touch $(READY)

demo: $(PROGRAM)
	@$(BIN)/python -m compileall -q batchrunner
	@rm -rf outputs/demo-chat.simulated outputs/demo-images.simulated
	@echo "== two jobs on the built-in simulator: no key, no network, nothing billed"
	$(BIN)/batchrunner run jobs/demo-chat.yaml
	$(BIN)/batchrunner run jobs/demo-images.yaml
	@echo "== answers:  outputs/demo-chat.simulated/results.jsonl"
	@echo "== pictures: outputs/demo-images.simulated/images/"
	@ls outputs/demo-images.simulated/images
	@echo "== their pages, for a browser: outputs/demo-chat.simulated/report.html and outputs/demo-images.simulated/report.html"

test: setup format lint types contracts tests
	@echo "== every check passed"

format:
	@echo "== format"; $(BIN)/ruff format --check .
lint:
	@echo "== lint"; $(BIN)/ruff check .
types:
	@echo "== types"; $(BIN)/mypy
contracts:
	@echo "== import contracts"; $(BIN)/lint-imports
unit: setup
	@echo "== the fast tests, for use while working: under a minute"
	@$(BIN)/python -m compileall -q batchrunner tests
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not real and not servers"
tests:
	@echo "== all tests"
	@$(BIN)/python -m compileall -q batchrunner tests  # the tests start hundreds of processes
	$(BIN)/python -m pytest -n auto --dist worksteal

browser: setup
	@echo "== a Chromium and playwright, for the tests of the page; what cannot be had is said, and those tests are skipped"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { test "$$(id -u)" = 0 && { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } >/dev/null 2>&1; } \
	  || echo "== no Chromium, and apt cannot install one here: install it as your system does"
	@$(BIN)/python -c 'import playwright' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]' \
	  || echo "== playwright cannot be installed here (pip says why, above)"
	@test -e .browser/node_modules/axe-core || npm install --silent --no-audit --no-fund --prefix .browser axe-core 2>/dev/null \
	  || echo "== axe-core cannot be installed here: its test is skipped"

screenshots: browser
	@echo "== each view of the page, on a desktop, dark and on a phone: docs/images/"
	$(BIN)/python -m tools.screenshots

test-servers: setup
	@echo "== servers that no one here wrote: llama.cpp's, llmock, LiteLLM's proxy, ogx, SLURM, Ray, moto's S3; what cannot be had is skipped"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[servers]' \
	  || echo "== llama.cpp cannot be installed here (pip says why, above): its tests are skipped"
	@test -e .servers/node_modules/@copilotkit/aimock || npm install --silent --no-audit --no-fund --prefix .servers @copilotkit/aimock \
	  || echo "== llmock cannot be installed here: its tests are skipped"
	@test -x .servers/litellm/bin/litellm \
	  || { $(PYTHON) -m venv .servers/litellm && .servers/litellm/bin/pip install --quiet --disable-pip-version-check 'litellm[proxy]'; } \
	  || echo "== LiteLLM's proxy cannot be installed here: its tests are skipped"
	@test -x .servers/ogx/bin/ogx || { for python in python3.12 python3.13 "$$HOME"/.pyenv/versions/3.1[23].*/bin/python; do \
	    "$$python" -c '' 2>/dev/null && "$$python" -m venv .servers/ogx && break; done; \
	    .servers/ogx/bin/pip install --quiet --disable-pip-version-check ogx; } 2>/dev/null \
	  || echo "== ogx, which needs Python 3.12 or newer, cannot be installed here: its tests are skipped"
	@for program in slurmctld slurmd sbatch munged parallel rsync; do PATH="$$PATH:/usr/sbin" command -v $$program; done >/dev/null \
	  || { test "$$(id -u)" = 0 && { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	    slurmctld slurmd slurm-client munge parallel rsync; } >/dev/null 2>&1; } \
	  || echo "== no SLURM, GNU parallel or rsync, and apt cannot install them here: their tests are skipped"
	@test -x .servers/ray/bin/batchrunner || { $(PYTHON) -m venv .servers/ray \
	    && .servers/ray/bin/pip install --quiet --disable-pip-version-check --editable '.[ray]'; } \
	  || echo "== Ray cannot be installed here: its tests are skipped"
	@test -x .servers/kubernetes/bin/kubernetes-validate || { $(PYTHON) -m venv .servers/kubernetes \
	    && .servers/kubernetes/bin/pip install --quiet --disable-pip-version-check kubernetes-validate; } \
	  || echo "== the schema of Kubernetes cannot be installed here: its tests are skipped"
	@test -x .servers/moto/bin/moto_server \
	  || { $(PYTHON) -m venv .servers/moto && .servers/moto/bin/pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'; } \
	  || echo "== moto's S3 cannot be installed here: its tests are skipped"
	$(BIN)/python -m pytest tests/servers tests/clusters

torture: setup
	@echo "== the tests that try to break it, long: about an hour"
	BATCHRUNNER_TORTURE=1 $(BIN)/python -m pytest -n auto tests/crash tests/fuzz tests/e2e tests/engine/test_soak.py

bench: setup
	@echo "== beside a bare aiohttp loop and its peers: an hour or more (make bench QUICK=1: some minutes)"
	$(BIN)/python benchmarks/bench.py --docs $(if $(QUICK),--quick)

bench-page: browser
	@echo "== the page in a browser: bytes, CPU, elements, search, scrolling, memory"
	$(BIN)/python benchmarks/page.py --docs

soak: setup
	@echo "== ten real minutes: memory and descriptors"
	$(BIN)/python benchmarks/soak.py

pages: setup
	@echo "== pages that are generated: docs/job-file.md, jobs/batchrunner.schema.json"
	$(BIN)/python -m tools.job_file_page

docs: $(DOCS)/.ready
	@echo "== site in .site/; a dead link is an error"
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict  # --quiet would hide the warnings from --strict

$(DOCS)/.ready: pyproject.toml
	@echo "== setting up $(DOCS): the documents' own environment, once"
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $(DOCS)/.ready

clean:
	rm -rf $(VENV) $(DOCS) .site build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

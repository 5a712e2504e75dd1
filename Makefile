# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
RUNTIMES = openvino llama

.DEFAULT_GOAL := help
.PHONY: help serve test test-runtimes check binding installs clients container-test load batch-kills soak search-quality bench docs screenshots record clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Makes the environment in the target's folder, with the extras in $(extras).
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Antiphon needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(@D)."
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	@$(@D)/bin/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt --editable '.[$(extras),redis,postgres,mcp,bucket,files]'
	@touch $@
endef

$(VENV)/.installed: extras = local,dev
$(VENV)/.can-serve: extras = local
$(VENV)/.installed $(VENV)/.can-serve: pyproject.toml constraints.txt
	$(environment)

$(RUNTIMES:%=build/%/.installed): build/%/.installed: pyproject.toml constraints.txt
	$(environment)
build/%/.installed: extras = $*,dev

serve: $(firstword $(wildcard $(VENV)/.installed) $(VENV)/.can-serve) ## Set up, fetch the default models, serve the API (options: make serve ARGS="--port 9000")
	@exec $(BIN)/antiphon serve $(ARGS)

test: $(VENV)/.installed ## Set up and run every test
	@$(BIN)/python -m pytest $(ARGS)

test-runtimes: $(RUNTIMES:%=build/%/.installed) ## Run every test with OpenVINO as the only runtime, then with llama.cpp (environments in build/)
	@failed=; for runtime in $(RUNTIMES); do \
		echo "Running the tests with $$runtime alone."; \
		build/$$runtime/bin/python -m pytest $(ARGS) || failed="$$failed $$runtime"; \
	done; \
	test -z "$$failed" || { echo "Tests failed with:$$failed"; exit 1; }

check: $(VENV)/.installed ## Lint, format, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

binding: $(VENV)/.installed ## Generate the binding of llama.cpp from the headers of the pinned xllamacpp
	@rm -rf build/xllamacpp && mkdir -p build/xllamacpp
	@$(BIN)/python -m pip download --quiet --no-deps --no-binary xllamacpp --constraint constraints.txt --dest build xllamacpp
	@tar -xzf build/xllamacpp-*.tar.gz -C build/xllamacpp --strip-components=1
	@$(BIN)/python scripts/generate_binding.py build/xllamacpp $(ARGS)

installs: $(VENV)/.installed ## Build the wheel, install each extra in an empty environment, use it
	@$(BIN)/python -m pytest -m installs tests/installs $(ARGS)

clients: $(VENV)/.installed ## Run the clients that people use, pinned, against this server
	@$(BIN)/python -m pytest -m clients tests/clients $(ARGS)

container-test: $(VENV)/.installed ## Take the container's steps in a bare Debian root (as root, with debootstrap)
	@$(BIN)/python -m pytest -m container tests/deploy $(ARGS)

load: $(VENV)/.installed ## Send the largest bodies and measure other clients, 5 minutes (ARGS="--load-seconds 60")
	@$(BIN)/python -m pytest -m load tests/load -s $(ARGS)

soak: $(VENV)/.installed ## Send 20,000 responses to a bounded store and watch its size, 2 minutes
	@$(BIN)/python -m pytest -m soak tests/load -s $(ARGS)

batch-kills: $(VENV)/.installed ## Kill server and engines under batches and vector stores, and compare answers, indexes and ledger (ANTIPHON_KILLS=10)
	@$(BIN)/python -m pytest -m load tests/kills -s $(ARGS)

search-quality: $(VENV)/.installed ## Compare vector stores and the toolkit's index over Python's documentation (ARGS="--sources FOLDER"), 10 minutes
	@$(BIN)/python -m benchmarks.file_search_quality $(ARGS)

bench: $(VENV)/.installed ## Measure beside the peers that are installed
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed ## Run every example in README and docs
	@$(BIN)/python -m pytest tests/docs $(ARGS)

screenshots: $(VENV)/.installed ## Take the pictures of the console in docs/images (needs chromium and fonts-inter)
	@$(BIN)/python -m pytest -m screenshots tests/console $(ARGS)

record: $(VENV)/.installed ## Record the tapes of the guide's examples anew, against the default models
	@$(BIN)/python -m pytest --record tests/testing/test_recorded_guide.py $(ARGS)

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info

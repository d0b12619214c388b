# Every target sets up .venv by itself when it is missing or when the dependencies have changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
DEMO := demo
EMOJI := runs/emoji

.PHONY: help demo emoji test test-fast lint docs lowest bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

# Two threads that wait for each other on a busy machine are slower than one.
test test-fast lowest: export OMP_NUM_THREADS = 1
test test-fast lowest: export OMP_WAIT_POLICY = passive

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP) ## draw images, train, evaluate, index, search
	rm -rf $(DEMO)/bundle $(DEMO)/gallery
	$(BIN)/dualpath prepare shapes --out $(DEMO)/shapes
	$(BIN)/dualpath train shapes --data $(DEMO)/shapes --out $(DEMO)/bundle
	$(BIN)/dualpath evaluate $(DEMO)/bundle --data $(DEMO)/shapes --split test \
		--json $(DEMO)/metrics.json --sheet $(DEMO)/evaluation.html
	$(BIN)/dualpath gallery add $(DEMO)/gallery $(DEMO)/shapes --model $(DEMO)/bundle
	$(BIN)/dualpath search $(DEMO)/gallery --top 5 --sheet $(DEMO)/report.html \
		"a big red circle to the left of a small blue square" \
		"three little green stars" \
		"a tiny yellow triangle above a huge purple cross"
	@echo "Search in the browser: $(BIN)/dualpath serve $(DEMO)/gallery"

# WEIGHTS=FILE: the backbone's weights, where the Hugging Face hub cannot be reached.
emoji: $(STAMP) ## train on emoji and publish a gallery of them in site/emoji
	$(BIN)/dualpath prepare emoji --out $(EMOJI)/images
	$(BIN)/dualpath train default --data $(EMOJI)/images --out $(EMOJI)/bundle \
		$(if $(WEIGHTS),--set image_encoder.weights=$(WEIGHTS))
	$(BIN)/dualpath evaluate $(EMOJI)/bundle --data $(EMOJI)/images --split test --json $(EMOJI)/metrics.json
	$(BIN)/dualpath gallery add $(EMOJI)/gallery $(EMOJI)/images --model $(EMOJI)/bundle
	$(BIN)/dualpath gallery publish $(EMOJI)/gallery --out site/emoji --max-size 128 --yes

lint: $(STAMP) ## style, types, layers, and the files of other tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/milvus/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/helm lint --quiet deploy/milvus
	$(BIN)/hadolint docker/Dockerfile

test: lint ## lint and all tests
	$(BIN)/pytest -n 2 --dist loadgroup

test-fast: $(STAMP) ## the tests of under three seconds each
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

# Direct dependencies at the lowest version that pyproject.toml allows.
lowest: $(STAMP) ## the fast tests with the lowest versions of all dependencies
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --extra dev \
		--output-file $(LOWEST)/requirements.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --requirements $(LOWEST)/requirements.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	$(LOWEST)/bin/pytest -n 2 --dist loadgroup -m "not slow"

docs: $(STAMP) ## build the documentation site; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## the benchmarks that need neither data nor weights
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/stage_one_profile.py
	$(BIN)/python benchmarks/gallery.py --rows 100000 --out runs/store
	@echo "With your own images and models: $(BIN)/python benchmarks/speed/suite.py --help"

clean: ## remove the environments and everything that was built
	rm -rf $(VENV) $(LOWEST) $(DEMO) build dist site

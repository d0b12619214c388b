# Every target sets up .venv by itself when it is missing or when the dependencies have changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo

.PHONY: demo test lint bench clean

# Two threads that wait for each other on a busy machine are slower than one.
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)/bundle $(DEMO)/gallery
	$(BIN)/dualpath prepare shapes --out $(DEMO)/shapes
	$(BIN)/dualpath train recipes/shapes.yaml --data $(DEMO)/shapes --out $(DEMO)/bundle
	$(BIN)/dualpath evaluate $(DEMO)/bundle --data $(DEMO)/shapes --split test \
		--json $(DEMO)/metrics.json --sheet $(DEMO)/evaluation.html
	$(BIN)/dualpath gallery add $(DEMO)/gallery $(DEMO)/shapes --model $(DEMO)/bundle
	$(BIN)/dualpath search $(DEMO)/gallery --top 5 --sheet $(DEMO)/report.html \
		"a big red circle to the left of a small blue square" \
		"three little green stars" \
		"a tiny yellow triangle above a huge purple cross"
	@echo "see it in the browser: $(BIN)/dualpath serve $(DEMO)/gallery"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/milvus/compose.yaml
	$(BIN)/helm lint --quiet deploy/milvus

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

bench: $(STAMP)
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/stage_one_profile.py
	$(BIN)/python benchmarks/gallery.py --rows 100000 --out runs/store
	@echo "and with pictures and models of your own: $(BIN)/python benchmarks/speed/suite.py --help"

clean:
	rm -rf $(VENV) $(DEMO)

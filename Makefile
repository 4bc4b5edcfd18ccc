# Two commands on a fresh machine: `make demo`, `make test`. They need Python 3.11 to 3.13 and make, nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test check format lock clean

demo: .venv/installed
	$(BIN)/packshot rehearse manifests/hello.yaml

# Most tests wait for processes more than they work, so three at a time; those that measure rates or moments run alone.
test: .venv/installed-dev
	$(BIN)/pytest -n 3 --dist worksteal -m "not alone" $(ARGS)
	$(BIN)/pytest -m alone $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/installed-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--group dev pyproject.toml --output-file constraints.txt
	echo "uv==$$($(BIN)/uv --version | cut -d' ' -f2)" >> constraints.txt

.venv/pip:
	@test -n "$(PYTHON)" || { echo "packshot needs Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	@touch $@

.venv/installed: .venv/pip pyproject.toml constraints.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e . --group dev
	@touch $@

clean:
	rm -rf .venv out .packshot

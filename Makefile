# The two commands of the README, and those of a developer. Each does the set-up first; a finished one costs nothing.
# ARGS goes to the command behind, for example: make test ARGS="tests/analysis -x"

.PHONY: help demo test lint bench docs setup lock clean

help:
	@echo "make demo    a closed-loop run on the simulated microscope, and its report (ARGS: those of 'edgestem demo')"
	@echo "make test    style, layers, types and the whole test suite (ARGS: those of pytest)"
	@echo "make bench   the figures of the README and the documentation's tables, into benchmarks/results.json (ARGS: names, for some of them)"
	@echo "make docs    the documentation, into docs/_build/html"
	@echo "make lint    style, layers and types alone"
	@echo "make lock    requirements.lock from what .venv holds now"

setup:
	@scripts/setup

demo: setup
	@.venv/bin/edgestem demo $(ARGS)

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/pyright

# One thread a process: the tests run DFT and networks side by side, and threads that fight for two cores cost minutes.
# Those of single units two files at a time. Those against real processes wait for them more than they compute: two at a
# time, mostly neighbours together since they share what they start. Where ARGS selects none of either, pytest ends with 5.
test: export OMP_NUM_THREADS = 1
test: lint
	@scripts/peers
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not system" $(ARGS) || [ $$? = 5 ]
	.venv/bin/python -m pytest -n 2 --dist worksteal -m system $(ARGS) || [ $$? = 5 ]

bench: setup
	.venv/bin/python benchmarks/run.py $(ARGS)
	.venv/bin/python benchmarks/readme.py

docs: setup
	.venv/bin/sphinx-build -E -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lock:
	scripts/lock

clean:
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis

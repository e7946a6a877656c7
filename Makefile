# The words of the project. Each runs in the virtual environment that is active.
TORCH = torch==2.13.0
SANITIZED = build/sanitized

.PHONY: install test lint bench docs sanitize format

install:
	pip install -q $(TORCH) '.[demo,test,lint]'

test:
	python tools/check_kernel_loops.py
	pytest -q

lint:
	ruff format --check .
	ruff check .
	mypy
	PYTHONPATH=src lint-imports
	clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp')

bench:
	pip install -q $(TORCH) '.[bench]'
	python -m benchmarks

docs:
	pip install -q $(TORCH) '.[docs]'
	mkdocs build

format:
	ruff format .
	ruff check --fix .
	clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp')

sanitize:
	tools/run_sanitized.sh

#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer and runs the kernels' tests on it.
# The sanitized package goes to build/sanitized and comes before the installed one; torch is not sanitized.
set -euo pipefail
cd "$(dirname "$0")/.."
target=build/sanitized
pip install -q 'scikit-build-core>=0.11' 'nanobind>=2.4' ninja
pip install -q --no-deps --no-build-isolation --upgrade --target "$target" . \
  -Ccmake.define.INTAGLIO_SANITIZE=ON -Cbuild-dir=build/sanitized-objects
runtime=$(${CXX:-g++} -print-file-name=libasan.so):$(${CXX:-g++} -print-file-name=libubsan.so)
# Python and torch keep memory until exit: leaks are theirs to report, not these tests'.
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LD_PRELOAD=$runtime PYTHONPATH=$target
python -c "import intaglio._core as core; assert '$target' in core.__file__, 'an editable install hides the sanitized one'"
python -m pytest -q -p no:cacheprovider tests/test_kernels.py "$@"

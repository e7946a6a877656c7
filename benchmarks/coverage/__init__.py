"""How much of today's models is quantized, how well and how fast: ours next to the peers, model by model.

`subjects` names the models, `real_models` makes those with real weights and labels, `candidates` are the
tools that quantize a whole model given sample inputs, `measuring` compares one tool's result with float32,
`processes` runs each in a process of its own with a time limit, `records` is what is kept and `table` what
people read.
"""

from __future__ import annotations

from benchmarks.coverage.candidates import CANDIDATES
from benchmarks.coverage.processes import measure_models
from benchmarks.coverage.records import ModelCoverage, Outcome, model_from_dict
from benchmarks.coverage.subjects import list_subjects
from benchmarks.coverage.table import render_coverage

__all__ = [
    "CANDIDATES",
    "ModelCoverage",
    "Outcome",
    "list_subjects",
    "measure_models",
    "model_from_dict",
    "render_coverage",
]

"""What a step of quantization-aware training costs, beside the same step in float and the legacy's.

records    what is kept of a row
steps      the contestants: forward, loss, backward and optimizer of one batch
measuring  steps in turn, and the memory of each in a process of its own
table      the rows as markdown
"""

from benchmarks.training.measuring import list_rows, measure_rows, report_memory
from benchmarks.training.records import StepCost, TrainingRow, row_from_dict
from benchmarks.training.table import render_training

__all__ = [
    "StepCost",
    "TrainingRow",
    "list_rows",
    "measure_rows",
    "render_training",
    "report_memory",
    "row_from_dict",
]

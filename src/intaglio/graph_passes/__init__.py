"""From a model to graphs that eager `prepare` can quantize: each pass takes a graph and gives one.

    examples       the calls on which a model is traced
    traced_values  values that stand in a graph and are known for the example calls
    python_calls   Python's own functions and helpers, as the traced code meets them
    tracing        models to graphs; what cannot be traced stays Python

May import fusion, eager, nn and below.
"""

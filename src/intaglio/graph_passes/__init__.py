"""From a model to graphs that eager `prepare` can quantize: each pass takes a graph and changes it.

    examples       the calls on which a model is traced
    traced_values  values that stand in a graph and are known for the example calls
    patched_names  names that a model's own code looks up, replaced while it is traced
    python_calls   Python's own functions and helpers, as the traced code meets them
    method_calls   methods that stay Python
    tracer         torch.fx with those values
    in_place       which steps change what they are given
    watching       which modules a module calls itself
    tracing        models to graphs; what cannot be traced stays Python
    copying        a user's model, copied and traced as its configuration wants it
    graphs         small steps that every pass takes
    normalizing    constants worked out, nothing in place, no module called twice
    modularize     functions to modules (layers, einsum)
    fusing         groups of modules, and sums on a layer's accumulators
    trying         what a function does with a QTensor
    placing        which values are integers, and the stubs
    counting       multiply-adds, in all and in int8
    restoring      what stays float, as functions again
    preparing      all of them in their order
    record         what was done with a model

May import fusion, eager, nn and below.
"""

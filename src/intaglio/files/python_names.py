"""What of Python itself a recorded graph may call: arithmetic on numbers, and nothing that reaches
further."""

# ruff: noqa: SIM905 - long lists of names read better as words

__all__ = ["BUILTINS", "MATH", "OPERATORS"]

MATH = """
    ceil copysign cos exp fabs floor fmod hypot isqrt log log10 log1p log2 pow prod sin sqrt tan tanh trunc
""".split()

BUILTINS = "abs bool float int len max min round".split()

OPERATORS = """
    abs add and_ eq floordiv ge getitem gt invert le lshift lt matmul mod mul ne neg or_ pos pow rshift sub
    truediv xor not_ setitem contains iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub
    itruediv ixor
""".split()

"""Fits the polynomial for 2**f on [-1/2, 1/2] that csrc/kernels/exp2-inl.h and ops/reference.py use.

Remez exchange on the relative error with p(0) = 1 held, so that sigmoid(0) and tanh(0) are exact; then
the coefficients are rounded to float32 and the nearest neighbours are tried one step each way. Prints
the coefficients and the largest relative error of the rounded polynomial, evaluated in float64.

    python tools/fit_exp2.py
"""

from __future__ import annotations

import itertools

import numpy as np

DEGREE = 5
POINTS = np.linspace(-0.5, 0.5, 200_001)


def alternating_extrema(error: np.ndarray, wanted: int) -> np.ndarray:
    """Indices of the largest extrema of alternating sign, at most `wanted`."""
    changes = np.flatnonzero(np.diff(np.sign(error))) + 1
    edges = [0, *changes.tolist(), len(error)]
    peaks = [a + int(np.abs(error[a:b]).argmax()) for a, b in itertools.pairwise(edges)]
    found: list[int] = []
    for peak in peaks:
        if abs(error[peak]) < 1e-12:
            continue
        if found and np.sign(error[found[-1]]) == np.sign(error[peak]):
            found[-1] = max(found[-1], peak, key=lambda i: abs(error[i]))
        else:
            found.append(peak)
    while len(found) > wanted:
        found.pop(0 if abs(error[found[0]]) < abs(error[found[-1]]) else -1)
    return np.array(found)


def fit(degree: int) -> np.ndarray:
    """Coefficients of f**1 .. f**degree."""
    basis = POINTS[:, None] ** np.arange(1, degree + 1) / np.exp2(POINTS)[:, None]
    target = 1.0 - np.exp2(-POINTS)
    at = (0.5 * (1.0 - np.cos(np.pi * np.arange(degree + 1) / degree)) * (len(POINTS) - 1)).astype(int)
    coefficients = np.zeros(degree)
    for _ in range(30):
        signs = (-1.0) ** np.arange(len(at))
        solution = np.linalg.solve(np.column_stack([basis[at], signs]), target[at])
        coefficients = solution[:-1]
        extrema = alternating_extrema(basis @ coefficients - target, degree + 1)
        if len(extrema) < degree + 1:
            break
        at = extrema
    return coefficients


def largest_error(coefficients: np.ndarray) -> float:
    """Largest |p(f) / 2**f - 1|."""
    powers = POINTS[:, None] ** np.arange(1, len(coefficients) + 1)
    return float(np.abs((1.0 + powers @ coefficients) / np.exp2(POINTS) - 1.0).max())


def main() -> None:
    """Fit, round, print."""
    exact = fit(DEGREE)
    rounded = exact.astype(np.float32)
    neighbours = [
        (np.nextafter(c, np.float32(-np.inf)), c, np.nextafter(c, np.float32(np.inf))) for c in rounded[:2]
    ]
    choices = [np.array([*low, *rounded[2:]], np.float64) for low in itertools.product(*neighbours)]
    best = min(choices, key=largest_error)
    for power, c in enumerate(best, 1):
        print(f"f^{power}: {c:.9g}  {float(c).hex()}")
    print(f"largest relative error: {largest_error(exact):.3g} exact, {largest_error(best):.3g} rounded")


if __name__ == "__main__":
    main()

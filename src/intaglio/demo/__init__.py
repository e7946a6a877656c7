"""The demo: two real networks and real data to quantize them on.

Needs the extra `demo`. May import everything below it; of the rest of the package only the command line
uses it, and the benchmarks and tests beside it.
"""

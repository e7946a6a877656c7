"""intaglio and its peers, side by side: `python -m benchmarks`, or `make bench`.

    __main__      the command: which processes to start, the progress bar, where the results go
    worker        one process: one group of workloads at one thread count, every contestant in turn
    workloads     what is computed: the shapes, a Linear at each
    models        MiniLM and the voice encoder, with the demo's weights
    contestants/  who computes it: one file a runtime, each in its best configuration
    timing        how it is timed: interleaved rounds, paired ratios
    limits        the peaks of this CPU, measured in the same rounds
    environment   where a run was measured
    results       what is kept of a run, to and from JSON
    goals         what speed the project promises, and whether a run keeps it
    report        RESULTS.md

`intaglio` imports nothing from here.
"""

"""Started as `python -m benchmarks.baselines`."""

from benchmarks.baselines.study import main

main()

"""Started as `python -m benchmarks.methods`."""

from benchmarks.methods.study import main

main()

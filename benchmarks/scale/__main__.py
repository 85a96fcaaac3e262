"""Started as `python -m benchmarks.scale`."""

from benchmarks.scale.study import main

main()

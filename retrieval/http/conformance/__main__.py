"""Started as `python -m retrieval.http.conformance URL`."""

from retrieval.http.conformance.checks import main

main()

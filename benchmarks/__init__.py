"""Antiphon beside its peers, on this machine, over HTTP: ``python -m benchmarks`` (``make bench``)."""

"""Antiphon and its peers, side by side on this machine, over HTTP: ``python -m benchmarks`` (``make bench``)."""

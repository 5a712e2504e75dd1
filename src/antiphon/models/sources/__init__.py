"""Where models come from: a contract, its implementations, and the factory that reads their names."""

from antiphon.models.sources.base import Source
from antiphon.models.sources.parse import looks_like_source, parse_source

__all__ = ["Source", "looks_like_source", "parse_source"]

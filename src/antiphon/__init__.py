"""Antiphon: the OpenAI API on your own machine, and a toolkit for applications that call it."""

__version__ = "0.1.0"

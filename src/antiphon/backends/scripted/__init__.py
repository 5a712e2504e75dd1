"""Replies, errors and faults from a script, for tests of an application."""

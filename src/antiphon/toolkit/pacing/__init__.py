"""Sending within an endpoint's rate limits."""

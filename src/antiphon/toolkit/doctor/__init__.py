"""Finds what is wrong between an application and its API, and names the command that mends it."""

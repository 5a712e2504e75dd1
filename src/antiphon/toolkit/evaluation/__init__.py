"""Measuring how well models do a task: cases, scores, intervals, and what got worse."""

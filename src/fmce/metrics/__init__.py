"""Scores of predictions and statistics of runs."""

"""Figures and the report page, made from a run folder's files."""

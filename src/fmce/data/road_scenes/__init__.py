"""Rendered road scenes with exact masks and boxes."""

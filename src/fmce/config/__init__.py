"""Configs: frozen dataclasses with range checks, YAML in and out, presets."""

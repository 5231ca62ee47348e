"""Callbacks for training frameworks, around the recorder."""

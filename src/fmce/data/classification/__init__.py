"""Data sets of images with one class per image."""

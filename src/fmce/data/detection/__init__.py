"""Data sets of images with boxes."""

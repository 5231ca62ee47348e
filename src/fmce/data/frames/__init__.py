"""Unlabelled frames: folders, videos, shards."""

"""Shapes that results leave in, one file each. Empty as yet: `results.jsonl` is read as it is."""

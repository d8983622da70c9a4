"""Frozen values and pure rules. Nothing here opens, sends, awaits, reads a clock or draws random numbers."""

VERSION = "0.1.0"
"""Of the program; here, because every module may read it."""

"""Frozen values and pure rules. Nothing here opens, sends, awaits, reads a clock or draws random numbers."""


# The program's version, where every module may read it.

VERSION = "0.1.0"

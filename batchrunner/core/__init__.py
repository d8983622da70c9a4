"""The ground: frozen values and pure rules. Nothing here opens, sends, awaits, reads a clock or rolls dice."""


# The program's version, where every room may read it.

VERSION = "0.1.0"

"""The commands, one file each. Everything they do is reachable from Python by the public names of `batchrunner`.

JSON goes to stdout, people's text to stderr. Commands reach the house through `import batchrunner`, whose names load at
first use, so that `batchrunner --help` stays quick.
"""

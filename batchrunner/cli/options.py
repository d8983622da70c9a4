"""Arguments and options that several commands share, with their help."""

from typing import Annotated

import typer

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="A job file (YAML).", show_default=False)]
JobFiles = Annotated[list[str], typer.Argument(metavar="JOB", show_default=False, help="One or more job files (YAML).")]
RunFolder = Annotated[
    str, typer.Argument(metavar="DIR", help="A run's directory, for example outputs/cats.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for programs.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job file; may be repeated."),
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Put the results here instead.")]
Simulate = Annotated[
    bool, typer.Option("--simulate", help="Use the built-in simulator instead of the provider: no key, nothing paid.")
]

"""mkdocs's side of `make docs`: the site has the layout of the repository, so that every link works here and there.

A page links to README.md, to example jobs and to tests as they stand in the repository. mkdocs knows only what is below
its `docs_dir`; this hook gives it the other files, too, and puts all of them at their places in the repository.
"""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[1]
SHOWN: Final = ("*.md", "LICENSE", "docs/**/*", "jobs/**/*", "examples/**/*", "tests/README.md")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by mkdocs with what it found below `docs_dir`."""
    for file in list(files):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def anchor(heading: str, separator: str) -> str:
    """The anchor of a heading as GitHub makes it, so that a link with `#` works in both places."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)

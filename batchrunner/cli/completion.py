"""`batchrunner completion SHELL`: a static script, so that a Tab starts no Python.

It is made from the commands themselves. After a command that takes a run's directory it offers directories that hold a
`run.json`, and folders on the way to them; after one that takes a job, YAML files.
"""

import inspect
import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import typer

from batchrunner.cli.options import AsJson
from batchrunner.cli.output import emit, emit_text
from batchrunner.core.control import SETTABLE
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.values import dataclass

Kind = Literal["job", "run", "folder", "key", "shell", "none"]
SHELLS: Final = ("bash", "zsh", "fish")
FORMATS: Final = (
    "jsonl", "csv", "parquet", "npy", "hf", "imagefolder", "captions", "messages", "sharegpt", "alpaca", "preference",
    "xlsx", "sheet", "markdown", "openai-batch", "webdataset",
)  # fmt: skip
"""Of `EXPORTERS`, which loads too much to be asked at the start of every command; a test compares the two."""
_KINDS: Final[Mapping[str, Kind]] = {"JOB": "job", "DIR": "run", "FOLDER": "folder", "KEY": "key", "SHELL": "shell"}
_NEW_FOLDER: Final = frozenset({"init"})
"""Commands whose DIR is no run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandWords:
    """What is offered after a command."""

    name: str
    about: str
    kind: Kind
    options: tuple[tuple[str, str], ...]
    """(option, its help)."""


def completion(
    *,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    as_json: AsJson = False,
) -> ExitStatus:
    r"""Print a script that completes commands, options, job files and run directories.

    \b
    Read it when your shell starts; for zsh, put it into a file `_batchrunner` on the fpath:
      batchrunner completion bash >> ~/.bashrc
      batchrunner completion fish > ~/.config/fish/completions/batchrunner.fish
    """
    if shell not in SHELLS:
        hint = "`batchrunner completion bash`, zsh or fish"
        raise JobMistakesError((Mistake(problem=f"unknown shell {shell!r}", hint=hint),))
    script = "\n".join({"bash": bash, "zsh": zsh, "fish": fish}[shell](commands()))
    if as_json:
        emit({"shell": shell, "script": script})
    else:
        emit_text(script)
    return ExitStatus.DONE


def commands() -> tuple[CommandWords, ...]:
    """Every command, from the command line itself."""
    from batchrunner.cli import main  # noqa: PLC0415 - it imports this module

    group: Any = typer.main.get_command(main.build())
    return tuple(_completed(name, command) for name, command in group.commands.items())


def _completed(name: str, command: Any) -> CommandWords:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = (arguments[0].metavar or "").strip("[]….").partition("[")[0] if arguments else ""
    kind: Kind = "none" if name in _NEW_FOLDER else _KINDS.get(words, "none")
    options = tuple(
        (option, (getattr(each, "help", None) or "").split(". ")[0].rstrip("."))
        for each in command.params
        if each.param_type_name == "option"
        for option in each.opts
        if option.startswith("--")
    )
    about = (inspect.cleandoc(command.help or "")).partition("\n")[0].rstrip(".")
    return CommandWords(name=name, about=about, kind=kind, options=(*options, ("--help", "Explain the command")))


# -- bash

_BASH: Final = r"""
_batchrunner_runs() {
  local each
  for each in "$1"*/ $([[ $1 ]] || echo outputs/*/); do
    [[ -d $each ]] || continue
    if [[ -e ${each}run.json ]]; then COMPREPLY+=("${each%/}"); else COMPREPLY+=("$each"); compopt -o nospace; fi
  done
}

_batchrunner_files() {
  local each
  for each in "$1"*; do
    if [[ -d $each ]]; then COMPREPLY+=("$each/"); compopt -o nospace
    elif [[ $each == *.yaml || $each == *.yml ]]; then COMPREPLY+=("$each"); fi
  done
}

_batchrunner() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} options= kind=none
  COMPREPLY=()
"""
_BASH_END: Final = r"""
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word")); return
  fi
  case $before in
    --out|--salvage|--from) COMPREPLY=($(compgen -d -- "$word")); return ;;
    --to) COMPREPLY=($(compgen -W "FORMATS" -- "$word")); return ;;
  esac
  case $kind in
    job) _batchrunner_files "$word" ;;
    run)
      if [[ $command == set && $COMP_CWORD -gt 2 ]]; then
        COMPREPLY=($(compgen -W "SETTABLE" -- "$word")); compopt -o nospace +o filenames
      else
        _batchrunner_runs "$word"
      fi ;;
    folder) COMPREPLY=($(compgen -d -- "$word")) ;;
    key) COMPREPLY=($(compgen -W "KEYS" -- "$word")) ;;
    shell) COMPREPLY=($(compgen -W "SHELLS" -- "$word")) ;;
  esac
}

complete -o filenames -F _batchrunner batchrunner
"""


def bash(found: tuple[CommandWords, ...]) -> Iterator[str]:
    """Works with bash 3.2 and later, but for the missing `compopt` there."""
    yield _BASH.strip("\n")
    names = " ".join(each.name for each in found)
    yield "  if (( COMP_CWORD == 1 )); then"
    yield f'    COMPREPLY=($(compgen -W "{names} --help --version" -- "$word")); return'
    yield "  fi"
    yield "  case $command in"
    for each in found:
        options = " ".join(option for option, _ in each.options)
        yield f'    {each.name}) options="{options}" kind={each.kind} ;;'
    yield "  esac"
    yield _filled(_BASH_END).strip("\n")


def _filled(text: str) -> str:
    return (
        text.replace("FORMATS", " ".join(FORMATS))
        .replace("KEYS", " ".join(_keys()))
        .replace("SETTABLE", " ".join(f"{key}=" for key in SETTABLE))
        .replace("SHELLS", " ".join(SHELLS))
    )


def _keys() -> tuple[str, ...]:
    """Of the job file."""
    from batchrunner.spec.models import PARTS, keys_of  # noqa: PLC0415 - pydantic, to write a script only

    paths = ((*part, key) for part, model in PARTS.items() for key in keys_of(model) if not {"[]", "{}"} & set(part))
    return tuple(map(".".join, paths))


# -- zsh


def _zsh_kinds() -> Mapping[Kind, str]:
    return {
        "job": "'*:job file:_files -g \"*.(yaml|yml)\"'",
        "run": "'1:run directory:_batchrunner_runs'",
        "folder": "'1:folder:_files -/'",
        "key": f"'1:key:({' '.join(_keys())})'",
        "shell": f"'1:shell:({' '.join(SHELLS)})'",
        "none": "'*:argument:_files'",
    }


def zsh(found: tuple[CommandWords, ...]) -> Iterator[str]:
    """For a file `_batchrunner` on the fpath."""
    kinds = _zsh_kinds()
    yield "#compdef batchrunner"
    yield "_batchrunner_runs() {"
    yield "  local -a runs; runs=(${(b)PREFIX}*/run.json(N:h) outputs/*/run.json(N:h))"
    yield "  compadd -a runs; _files -/"
    yield "}"
    yield "_batchrunner() {"
    yield "  local -a commands; commands=("
    yield from (f"    {shlex.quote(f'{each.name}:{each.about}')}" for each in found)
    yield "  )"
    yield "  if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "  shift words; (( CURRENT-- ))"
    yield "  case $words[1] in"
    for each in found:
        options = " ".join(shlex.quote(f"{option}[{_bare(about)}]") for option, about in each.options)
        yield f"    {each.name}) _arguments {options} {kinds[each.kind]} ;;"
    yield "  esac"
    yield "}"
    yield '_batchrunner "$@"'


def _bare(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", ",")


# -- fish

_FISH: Final = """function __batchrunner_runs
    for each in (commandline -ct)*/ outputs/*/
        test -e $each/run.json; and string trim -r -c / $each
    end
end
complete -c batchrunner -f"""


def _fish_kinds() -> Mapping[Kind, str]:
    return {
        "job": "(__fish_complete_suffix .yaml; __fish_complete_suffix .yml)",
        "run": "(__batchrunner_runs; __fish_complete_directories)",
        "folder": "(__fish_complete_directories)",
        "key": " ".join(_keys()),
        "shell": " ".join(SHELLS),
        "none": "",
    }


def fish(found: tuple[CommandWords, ...]) -> Iterator[str]:
    """For `completions/batchrunner.fish`."""
    kinds = _fish_kinds()
    yield _FISH
    for each in found:
        yield f"complete -c batchrunner -n __fish_use_subcommand -a {each.name} -d {_fish_quoted(each.about)}"
        seen = f"'__fish_seen_subcommand_from {each.name}'"
        if offered := kinds[each.kind]:
            yield f"complete -c batchrunner -n {seen} -a {_fish_quoted(offered)}"
        for option, about in each.options:
            yield f"complete -c batchrunner -n {seen} -l {option.removeprefix('--')} -d {_fish_quoted(about)}"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

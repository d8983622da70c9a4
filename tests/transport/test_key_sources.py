"""Keys from variables, files and commands: what is read, what is said of what cannot be, and that no key is in it."""

import os
import stat
import sys
from pathlib import Path

import pytest

from batchrunner.core.job import Provider
from batchrunner.core.values import replace
from batchrunner.transport import FoundKeys, read_keys
from tests.transport.servers import provider

KEY = "sk-proj-4fK9x2LmQ7vT1bN8"
PLAIN = provider("https://a.test/v1")


def of_variables(*names: str) -> Provider:
    return replace(PLAIN, key_env=names)


def of_file(path: Path | str) -> Provider:
    return replace(PLAIN, key_env=(), key_files={f"file:{path}": str(path)})


def of_command(*words: str) -> Provider:
    return replace(PLAIN, key_env=(), key_commands={f"cmd:{' '.join(words)}": words})


def of_python(program: str) -> Provider:
    """A command that is named `show` in what is said."""
    return replace(PLAIN, key_env=(), key_commands={"cmd:show": (sys.executable, "-c", program)})


def revealed(found: FoundKeys) -> dict[str, str]:
    return {account: secret.reveal() for account, secret in found.keys.items()}


def complaint(found: FoundKeys) -> str:
    (mistake,) = found.missing
    assert not found.keys
    assert not found.accounts
    return str(mistake)


def test_every_missing_or_broken_key_is_a_mistake_that_names_the_variable_and_not_the_key() -> None:
    environ = {"A": f" {KEY} ", "B": "", "C": "two words", "D": "schlüssel"}
    found = read_keys(of_variables("A", "B", "C", "D", "E"), environ)
    assert revealed(found) == {"A": KEY}
    assert found.accounts == ("A",)
    assert [mistake.problem.split(" ")[0] for mistake in found.missing] == ["the", "the", "the", "E"]
    text = "\n".join(map(str, found.missing))
    assert "variable B is empty" in text
    assert "export E=YOUR_KEY" in text
    assert "two words" not in text
    assert "schlüssel" not in text


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n", f"{KEY}\r\n\n", f"\ufeff{KEY}\n", f"Bearer {KEY}\n", f'"{KEY}"'])
def test_a_file_with_a_key_is_read_without_the_end_of_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    found = read_keys(of_file(path), {})
    assert (list(revealed(found).values()), found.notes, found.accounts) == ([KEY], (), (f"file:{path}",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xff\xfes\x00k\x00", "is binary"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is binary"),
        (KEY.encode() + b"\nsecond-line\n", "has 2 lines"),
        (b"two words\n", "white space"),
        ("schlüssel".encode(), "non-ASCII"),
        (b"k" * 70_000, "more than 64 KiB"),
    ],
)
def test_a_file_that_holds_no_key_is_named_and_not_shown(tmp_path: Path, content: bytes, said: str) -> None:
    """Threat 2."""
    path = tmp_path / "a.key"
    path.write_bytes(content)
    text = complaint(read_keys(of_file(path), {}))
    assert text.startswith(f"provider.api_key_file: {path}")
    assert said in text
    assert not any(word in text for word in (KEY, "second-line", "two words", "schlüssel", "kkkk"))


def test_what_is_no_file_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "is no file"), ("folder", "is no file"), ("gone", "No such file"), ("a\0b", "null")):
        assert said in complaint(read_keys(of_file(f"{tmp_path}/{name}"), {}))


@pytest.mark.parametrize("rights", [0o600, 0o400, 0o640, 0o644, 0o604])
def test_a_file_that_others_may_read_is_used_and_reported(tmp_path: Path, rights: int) -> None:
    path = tmp_path / "a.key"
    path.write_text(KEY)
    path.chmod(rights)
    found = read_keys(of_file(path), {})
    assert list(revealed(found).values()) == [KEY]
    told = [f"mode {rights:04o}" in note and f"chmod 600 {path}" in note for note in found.notes]
    assert told == ([True] if rights & 0o077 else [])
    assert stat.S_IMODE(path.stat().st_mode) == rights


def test_a_variable_or_a_tilde_at_the_beginning_of_a_path_is_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd gives credentials to a unit. Within a path both stand for themselves: a folder may have any name."""
    for folder in (tmp_path, tmp_path / "$HOME"):
        folder.mkdir(exist_ok=True)
        (folder / "openai").write_text(KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    for path in (
        "$CREDENTIALS_DIRECTORY/openai",
        "${CREDENTIALS_DIRECTORY}/openai",
        "~/openai",
        f"{tmp_path}/$HOME/openai",
    ):
        assert revealed(read_keys(of_file(path), environ)) == {f"file:{path}": KEY}
    text = complaint(read_keys(of_file("$CREDENTIALS_DIRECTORY/openai"), {}))
    assert "CREDENTIALS_DIRECTORY is not set" in text
    assert "LoadCredential=" in text


def test_what_a_command_prints_is_the_key() -> None:
    assert revealed(read_keys(of_command("printf", f"{KEY}\\n"), os.environ)) == {f"cmd:printf {KEY}\\n": KEY}
    assert revealed(
        read_keys(of_python("import os; print(os.environ['WORD'] * 3)"), {**os.environ, "WORD": "abc"})
    ) == {"cmd:show": "abcabcabc"}


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit(3)", "show: ended with exit status 3"),
        (f"import sys; print('{KEY}'); sys.exit('no entry for {KEY} in the store')", "no entry for *** in the store"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "was ended by signal 15"),
        ("pass", "show: what it printed is empty"),
        (f"print('{KEY}\\nsecond-line')", "has 2 lines"),
        ("import sys; sys.stdout.buffer.write(b'\\0\\1')", "is binary"),
        ("print('a' * 70_000)", "prints more than 64 KiB"),
        ("print('two words')", "white space"),
    ],
)
def test_a_command_that_gives_no_key_is_named_and_what_it_printed_is_not_shown(program: str, said: str) -> None:
    """Threat 2."""
    text = complaint(read_keys(of_python(program), os.environ))
    assert text.startswith("provider.api_key_cmd: show: ")
    assert said in text
    assert not any(word in text for word in (KEY, "second-line", "two words", "aaaa"))


def test_a_command_that_hangs_is_ended_with_what_it_started_at_its_limit(tmp_path: Path) -> None:
    """What it leaves running holds its pipes open, and is not waited for either."""
    mark = tmp_path / "pid"
    held = ("sh", "-c", f"sleep 600 & echo $! > {mark}; printf started; wait")
    assert "took longer than 1 s" in complaint(read_keys(of_command(*held), os.environ, limit_s=1.0))
    left = ("sh", "-c", f"sleep 600 & echo $! > {mark}; printf {KEY}")
    assert list(revealed(read_keys(of_command(*left), os.environ)).values()) == [KEY]
    os.kill(int(mark.read_text()), 9)


def test_a_command_that_is_not_needed_is_looked_for_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = read_keys(of_command("touch", str(mark)), os.environ, run_commands=False)
    assert (found.keys, found.missing, found.accounts) == ({}, (), (f"cmd:touch {mark}",))
    assert not mark.exists()
    text = complaint(read_keys(of_command("no-such-program"), os.environ, run_commands=False))
    assert "there is no program no-such-program" in text
    assert "[pass show one, pass show two]" in text


def test_keys_of_an_earlier_run_are_read_by_the_names_of_their_accounts(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text(KEY)
    both = replace(of_file(path), key_env=("A", "B"))
    found = read_keys(both, {"A": "of-a-variable", "C": "of-another"}, only=["C", f"file:{path}"])
    assert revealed(found) == {"C": "of-another", f"file:{path}": KEY}
    (gone,) = read_keys(both, {}, only=["file:gone.key"]).missing
    assert "gone.key: the job does not name it any more; add it to provider.api_key_file" in str(gone)

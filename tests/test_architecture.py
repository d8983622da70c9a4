"""What holds over the whole package and belongs to no single module of it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from batchrunner import api
from batchrunner.core.error_policy import POLICY
from batchrunner.core.job import DialectName, PresetName
from batchrunner.core.outcome import ProblemKind
from batchrunner.core.presets import PRESETS
from batchrunner.engine.work_queue import LoopClock
from batchrunner.providers import DIALECTS
from batchrunner.simulator.in_process import simulated_network
from batchrunner.spec.provider import _KINDS_OF
from batchrunner.transport.api_transport import REPLY_CAP_BYTES
from tests.conftest import SLOW
from tools import counts, files_touched

HOME = Path(__file__).resolve().parents[1]
HEAVY = ("aiohttp", "PIL", "pydantic", "jinja2")


@pytest.mark.parametrize("table", [DIALECTS, _KINDS_OF, REPLY_CAP_BYTES])
def test_every_table_of_dialects_names_them_all(table: dict[str, object]) -> None:
    assert set(table) == set(get_args(DialectName))


def test_every_preset_and_every_problem_has_its_row() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    assert set(POLICY) == set(ProblemKind)


SHORT_WITH_REASON = {
    "exporters/tables.py": "the guard against formulas (threat 12), apart from the formats that need none",
    "exporters/vector_files.py": "the one format of vectors alone; the others are tables or lines",
    "report/apprise_message.py": "a process of its own, which loads nothing of the program",
    "__main__.py": "the command's entry point",
    "stores/cancelled_file.py": "what only the command `cancel` reads; no run does",
    "stores/picture_checks.py": "for checks of finished pictures; what writes pictures never loads it",
    "stores/timezones.py": "the system's time zones: three layers ask for them, and no other module of the stores",
    "transport/on_demand.py": "runs with nothing to send load it without aiohttp",
}
"""Modules that stand alone although they are short, and why."""


def test_no_file_is_longer_than_500_lines() -> None:
    assert counts.long_files() == {}


def test_a_short_module_has_a_reason_to_stand_alone() -> None:
    assert counts.short_modules().keys() == SHORT_WITH_REASON.keys()


FILES_TOUCHED = {"chat item": 26, "chat item, streamed": 35, "image task": 45}
"""The most files that an item passes through from its slot to its row; `python -m tools.files_touched` lists them.

It is 25, 32 and 44 where the disk is quick: `engine/lane_policy.py` is asked once for each sync of intents, which may
be one for each item. A stream needs `providers/error_bodies.py` and `providers/sse.py` only where its bytes arrive in
certain pieces. The bounds are the sums of all of them.
"""


@pytest.mark.slow
def test_an_item_passes_through_no_more_files_than_it_did() -> None:
    """The quietest of three runs counts: on a busy machine an item waits where it otherwise would not."""
    least: dict[str, list[str]] = {}
    for _ in range(3):
        found = files_touched.files_touched()
        assert found.keys() == FILES_TOUCHED.keys()
        for kind, files in found.items():
            assert "engine/attempt.py" in files
            least[kind] = min(least.get(kind, files), files, key=len)
        if all(len(files) <= FILES_TOUCHED[kind] for kind, files in least.items()):
            return
    pytest.fail(str({kind: files for kind, files in least.items() if len(files) > FILES_TOUCHED[kind]}))


def test_names_of_modules_and_classes_occur_once() -> None:
    assert counts.names_that_occur_twice() == {}


def test_names_are_words_that_a_newcomer_knows() -> None:
    assert counts.names_with_metaphors() == []


def test_names_in_tests_are_words_that_a_newcomer_knows() -> None:
    everyday = {
        "say",
        "says",
        "said",
        "tell",
        "tells",
        "telling",
        "told",
        "hear",
        "hears",
        "heard",
        "sound",
        "sounds",
        "room",
    }
    assert counts.names_with_metaphors(counts.TESTS, counts.METAPHORS - everyday) == []


def test_nothing_below_the_wiring_imports_report() -> None:
    assert counts.imports_of_report_below_the_wiring() == []


def test_what_a_kind_of_problem_leads_to_stands_in_one_table() -> None:
    assert counts.sets_of_problem_kinds() == []


def test_no_document_is_cited_that_is_not_here() -> None:
    assert counts.citations_of_absent_documents() == []


HELP = """
import runpy, sys
sys.argv = ["batchrunner", "--help"]
try:
    runpy.run_module("batchrunner", run_name="__main__")
except SystemExit:
    pass
"""


@pytest.mark.parametrize("code", ["import batchrunner", HELP])
def test_looking_in_costs_no_heavy_library(code: str) -> None:
    told = f"\nimport sys; print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + told], cwd=HOME, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stderr


LIBRARIES = ("aiohttp", "tenacity", "PIL", "pyarrow", "jinja2", "jsonschema_rs", "uvloop", "rich")
"""What costs time to load; pydantic, PyYAML and typer are needed to read any job file and any command line."""
HEAVY_MODULES = (
    "assembly",
    "engine.runner",
    "engine.attempt",
    "providers.error_bodies",
    "transport.api_transport",
    "simulator.world",
)
"""Modules that are needed to send, each with much below it."""


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("check {jobs}/questions-from-csv.yaml", {"jsonschema_rs"}),  # it has a schema
        ("plan {jobs}/questions-from-csv.yaml", {"jsonschema_rs"}),
        ("plan {jobs}/demo-chat.yaml", set()),
        ("status {run}", set()),
        ("export {run} --to jsonl --out {run}-taken.jsonl", set()),
        ("run {jobs}/demo-chat.yaml --out {run}/again", {"jinja2", "tenacity", "uvloop", "heavy modules"}),  # its page
    ],
)
def test_a_command_loads_only_what_it_needs(command: str, needed: set[str], tmp_path: Path) -> None:
    """What asks and tells needs nothing of what sends, and no library that its job has no use for."""
    assert api.run_sync(api.load_job(str(HOME / "jobs" / "demo-chat.yaml"), out=str(tmp_path))).exit_status == 0
    words = command.format(jobs=HOME / "jobs", run=tmp_path).split()
    code = f"from batchrunner.cli.main import main; import sys; status = main({words!r})"
    told = f"\nloaded = [name for name in {LIBRARIES!r} if name in sys.modules]"
    told += f"\nloaded += ['heavy modules' for module in {HEAVY_MODULES!r} if 'batchrunner.' + module in sys.modules]"
    shown = "\nprint('ENDED', status, sorted(set(loaded)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + told + shown], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert f"ENDED 0 {sorted(needed)}" in done.stderr, done.stderr


def test_a_run_with_nothing_left_to_send_loads_nothing_that_sends(tmp_path: Path) -> None:
    """Not even where the directory was touched since, and every item is looked at again."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: done\nkind: chat\nprovider: {base_url: 'http://127.0.0.1:9/v1'}\nmodel: sim/chat\nprompts: [one, two]\n"
    )
    job = api.load_job(str(path), out=str(tmp_path / "out"))
    network = simulated_network(scenario=None, models=job.models, timeouts=job.timeouts, clock=LoopClock())
    assert api.run_sync(job, network=network).exit_status == 0
    (tmp_path / "out/results.jsonl").touch()
    words = ["run", str(path), "--out", str(tmp_path / "out")]
    code = f"from batchrunner.cli.main import main; import sys; status = main({words!r})"
    told = "\nprint('ENDED', status, 'aiohttp' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + told], capture_output=True, text=True, check=False)
    assert "ENDED 0 False" in done.stderr, done.stderr


def test_check_loads_no_store_and_nothing_that_replies_are_made_of() -> None:
    unneeded = ("core.outcome", "core.plan", "core.ports", "stores.results", "transport.session")
    code = f"""
import sys
from batchrunner.cli.main import main
main(["check", {str(HOME / "jobs" / "demo-chat.yaml")!r}])
print("LOADED", [name for name in {unneeded!r} if "batchrunner." + name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stderr


def test_dataclasses_are_those_that_cost_a_start_nearly_nothing() -> None:
    """The standard library compiles each of its own anew at each start; `core/values.py` has them without."""
    paths = sorted((HOME / "batchrunner").rglob("*.py"))
    assert [str(path) for path in paths if "\nfrom dataclasses import" in path.read_text("utf-8")] == []


MODULES = {"check": 86, "run": 245}
"""How many modules of the program a command loads at most for a job of one prompt: each costs a start something."""


@pytest.mark.parametrize("command", MODULES)
def test_a_start_loads_few_modules_and_makes_the_validators_of_given_keys_alone(command: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{provider: simulator, model: sim/talker, prompts: [Say hello.]}")
    code = f"""
import sys
from batchrunner.cli.main import main
main([{command!r}, "job.yaml"])
from batchrunner.spec.models import PARTS
made = [part.__name__ for part in PARTS.values() if part.__pydantic_complete__]
loaded = [name for name in sys.modules if name.startswith("batchrunner.")]
print("MADE", made, "\\nLOADED", len(loaded), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    always = ["JobSpec", "ProviderSpec", "PromptSpec", "TimeoutsSpec", "LimitsSpec", "RetrySpec", "OutputSpec"]
    assert f"MADE {always}" in done.stderr
    assert int(done.stderr.rpartition("LOADED ")[2]) <= MODULES[command], done.stderr


def test_what_is_called_slow_exists() -> None:
    """Else a test that was renamed would come into the fast tier unnoticed."""
    for name in SLOW:
        path, _, test = name.partition("::")
        assert (HOME / "tests" / path).exists(), name
        assert f"def {test}" in ((HOME / "tests" / path).read_text("utf-8") if test else "def "), name


CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
LEAST_PATIENCE_S = 20


def test_no_test_asserts_how_long_something_takes() -> None:
    """It fails on a slower machine. `tests/support/growth.py` measures growth and calls, `benchmarks/` the time."""
    for path in sorted((HOME / "tests").rglob("*.py")):
        assert timed_asserts(path.read_text()) == [], path


@pytest.mark.parametrize(
    "lines",
    [
        "began = time.monotonic(); work(); assert time.monotonic() - began < 2",
        "began = time.process_time(); work(); took = time.process_time() - began; assert took < 2, took",
        "took = []\n began = time.time_ns(); took.append(time.time_ns() - began)\n assert min(took) < 2",
        "def cost():\n  began = time.thread_time(); return (time.thread_time() - began) * 1000\n assert cost() < 2",
        "end = time.monotonic() + 3\n while not done():\n  assert time.monotonic() < end",
    ],
)
def test_an_assertion_on_a_time_is_seen(lines: str) -> None:
    assert len(timed_asserts(f"def test():\n {lines}")) == 1


def test_waiting_for_a_state_with_patience_is_no_assertion_on_a_time() -> None:
    waiting = "end = time.monotonic() + 60\n while not done():\n  assert time.monotonic() < end, 'never done'"
    assert timed_asserts(f"def test():\n {waiting}\n began = loop.time(); assert loop.time() - began < 2") == []


def test_no_test_waits_without_a_pause_or_takes_half_a_line_for_a_row() -> None:
    """`tests/support/waiting.py` waits; `json_lines_so_far` reads what a living process writes."""
    for path in sorted((HOME / "tests").rglob("*.py")):
        assert bad_waits(path.read_text()) == [], path


@pytest.mark.parametrize(
    "lines",
    [
        "while not path.exists():\n  assert process.poll() is None",
        "while len(json_lines(path)) < 2:\n  time.sleep(0.1)",
        "wait_until(lambda: len(json_lines(path)) == 2, 'two rows')",
    ],
)
def test_a_bad_wait_is_seen(lines: str) -> None:
    assert len(bad_waits(f"def test():\n {lines}")) == 1


def bad_waits(source: str) -> list[str]:
    """The loops that look at a process without a pause, and the looks at a file that take half a line for a row."""
    found = list[str]()
    for node in ast.walk(ast.parse(source)) if "poll()" in source or "json_lines(" in source else ():
        if (
            isinstance(node, ast.While)
            and ".poll()" in (text := ast.unparse(node))
            and not re.search(r"(sleep|readline)\(", text)
        ):
            found.append(text)
        if isinstance(node, ast.While | ast.Lambda):
            looks = ast.unparse(node.test if isinstance(node, ast.While) else node.body)
            found += [looks] * ("json_lines(" in looks)
    return found


def timed_asserts(source: str) -> list[str]:
    """The assertions of a module on differences of real clocks, or with a deadline that a busy machine misses."""
    if not any(f"time.{clock}" in source for clock in CLOCKS):
        return []
    return [ast.unparse(found) for node in ast.parse(source).body for found in _timed_asserts_in(node)]


def _timed_asserts_in(function: ast.AST) -> Iterator[ast.Assert]:
    clocks = _Clocks()
    for _ in range(2):  # a nested function may stand below its use
        for node in ast.walk(function):
            clocks.note(node)
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and (clocks.in_span(node.test) or clocks.hasty & set(_names(node.test))):
            yield node


def _names(node: ast.AST) -> list[str]:
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute | ast.Call)]
    return [ast.unparse(part) for part in parts]


class _Clocks:
    """The names in a function that hold a moment, a span of time, or the end of a patience that is too short."""

    def __init__(self) -> None:
        self.moments = {f"time.{clock}{end}()" for clock in CLOCKS for end in ("", "_ns")}
        self.spans = set[str]()
        self.hasty = set[str]()

    def in_span(self, node: ast.AST) -> bool:
        return not self.spans.isdisjoint(_names(node)) or any(
            isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and not self.moments.isdisjoint(_names(part))
            for part in ast.walk(node)
        )

    def note(self, node: ast.AST) -> None:
        """What a statement makes of a clock."""
        if isinstance(node, ast.Assign):
            self._assigned(ast.unparse(node.targets[0]), node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            self._assigned(ast.unparse(node.func.value), node.args[0])
        elif isinstance(node, ast.FunctionDef):
            returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value]
            if any(map(self.in_span, returned)):
                self.spans.add(node.name)

    def _assigned(self, name: str, value: ast.expr) -> None:
        if self.in_span(value):
            self.spans.add(name)
        elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add) and ast.unparse(value.left) in self.moments:
            patience = ast.literal_eval(value.right) if isinstance(value.right, ast.Constant) else LEAST_PATIENCE_S
            if patience < LEAST_PATIENCE_S:
                self.hasty.add(name)
        elif ast.unparse(value) in self.moments:
            self.moments.add(name)

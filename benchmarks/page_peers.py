"""The same answers on promptfoo's page and in inspect view, for `benchmarks/page.py --peers FOLDER`.

FOLDER has `promptfoo/` (`npm install --prefix FOLDER/promptfoo promptfoo`) and `inspect/`, a virtual environment with
inspect_ai. Each page is made by the peer's own command: `promptfoo eval --output page.html`, with three providers that
look the answers up, and `inspect view bundle` of a log that inspect's own function has written. Whichever is missing
is left out, and its reason is said.
"""

import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import batchrunner

Answers = dict[str, dict[str, str]]
"""question → model → answer."""

_LOG = """
import json, sys
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, EvalStats, write_eval_log
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput

model, answers = json.load(open(sys.argv[1]))
samples = [
    EvalSample(id=place, epoch=1, input=question, target="", output=ModelOutput.from_content(model, text),
               messages=[ChatMessageUser(content=question), ChatMessageAssistant(content=text)])
    for place, (question, text) in enumerate(answers)
]
spec = EvalSpec(created="2026-01-01T00:00:00+00:00", task="gsm8k", dataset=EvalDataset(samples=len(samples)),
                model=model, config=EvalConfig())
write_eval_log(EvalLog(status="success", eval=spec, samples=samples, stats=EvalStats()), sys.argv[2])
"""
_PROVIDER = """
const answers = require(%s);
module.exports = class {
  id() { return %s; }
  async callApi(prompt) { return { output: answers[prompt.trim()][%s] }; }
};
"""


def answers_of(out: Path) -> Answers:
    """What a run's rows have, by question and model."""
    found: Answers = defaultdict(dict)
    for row in batchrunner.results(str(out)):
        each: dict[str, Any] = dict(row)
        found[each["prompt"].strip()][each["model"]] = each["output"]["text"]
    return found


def promptfoo_page(answers: Answers, peers: Path, work: Path) -> Path | None:
    """The HTML that `promptfoo eval` writes; None where promptfoo is not installed or fails."""
    command = peers / "promptfoo" / "node_modules" / ".bin" / "promptfoo"
    if not command.exists():
        print(f"promptfoo is not measured: no {command}")
        return None
    work.mkdir(parents=True, exist_ok=True)
    page = work / "promptfoo.html"
    (work / "answers.json").write_text(json.dumps(answers))
    models = sorted({model for by_model in answers.values() for model in by_model})
    for place, model in enumerate(models):
        words = json.dumps(str(work / "answers.json")), json.dumps(model), json.dumps(model)
        (work / f"provider{place}.js").write_text(_PROVIDER % words)
    (work / "tests.json").write_text(json.dumps([{"vars": {"question": question}} for question in answers]))
    job = {
        "prompts": ["{{ question | safe }}"],
        "providers": [f"file://{work}/provider{place}.js" for place in range(len(models))],
        "tests": f"file://{work}/tests.json",
    }
    (work / "promptfooconfig.json").write_text(json.dumps(job))
    environment = {
        **os.environ,
        "PROMPTFOO_CONFIG_DIR": str(work / "promptfoo-state"),
        "PROMPTFOO_DISABLE_TELEMETRY": "1",
        "PROMPTFOO_DISABLE_UPDATE": "1",
        "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    }
    words = ["eval", "--config", str(work / "promptfooconfig.json"), "--output", str(page), "--no-progress-bar"]
    return _made(page, [str(command), *words, "--no-table", "--no-share"], work, environment)


def inspect_bundle(answers: Answers, model: str, peers: Path, work: Path) -> Path | None:
    """The index.html of `inspect view bundle` for one model; None where inspect_ai is not installed or fails."""
    command = peers / "inspect" / "bin" / "inspect"
    if not command.exists():
        print(f"inspect is not measured: no {command}")
        return None
    (work / "logs").mkdir(parents=True, exist_ok=True)
    (work / "model.json").write_text(json.dumps([model, [(asked, told[model]) for asked, told in answers.items()]]))
    log = work / "logs" / "2026-01-01T00-00-00+00-00_gsm8k_measured.eval"
    if _made(log, [str(command.with_name("python")), "-c", _LOG, str(work / "model.json"), str(log)], work) is None:
        return None
    page = work / "bundle" / "index.html"
    words = ["view", "bundle", "--log-dir", str(work / "logs"), "--output-dir", str(page.parent), "--overwrite"]
    return _made(page, [str(command), *words], work)


def _made(path: Path, command: list[str], work: Path, environment: dict[str, str] | None = None) -> Path | None:
    if path.exists():
        return path
    ran = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if path.exists():
        return path
    print(f"not measured: {' '.join(command[:2])} ended with {ran.returncode}: {(ran.stderr or ran.stdout)[-400:]}")
    return None

"""Behind nginx's limits nothing is charged and nothing counts as perhaps paid: its bare 503 is a limit, no fault."""

from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from tests.servers.nginx import LIMITS, needs_nginx, nginx

ITEMS = 60


@needs_nginx
@pytest.mark.servers
@pytest.mark.parametrize("limit", LIMITS)
def test_refusals_of_nginx_cost_no_try_and_nothing_counts_as_perhaps_paid(tmp_path: Path, limit: str) -> None:
    with nginx(tmp_path, limit, answer_s=0.3 if limit == "limit_conn" else 0.02) as base:
        job = tmp_path / "job.yaml"
        prompts = "".join(f"  - question {number}\n" for number in range(ITEMS))
        provider = f"{{base_url: '{base}/v1', api_key_env: [], auth: none}}"
        job.write_text(f"name: job\nprovider: {provider}\nmodel: m\nprompts:\n{prompts}")
        report = api.run_sync(api.load_job(str(job), out=str(tmp_path / "out")), say=lambda _: None)
    status = report.status
    assert report.exit_status is ExitStatus.DONE
    assert (status.items.done, status.items.failed) == (ITEMS, 0)
    assert status.sends.possible_duplicates == 0
    assert status.sends.total == ITEMS + status.sends.refused, "a refusal was charged, or counted as a failure"
    assert status.sends.refused > 0, "the limit was never met: the test shows nothing"

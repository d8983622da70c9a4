"""Shards: whose items they are, and what each may use of the job's limits."""

import random
from pathlib import Path

import pytest

from batchrunner import load_job
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job
from batchrunner.core.pacing import Bucket, changed_bucket, minute_bucket
from batchrunner.core.part import Shard
from batchrunner.core.shard import shard_notes, shard_of, with_shard

KEYS = [f"{random.Random(number).getrandbits(128):032x}" for number in range(400)]


def item(key: str, index: int = 1) -> Item:
    return Item(id=f"i{index}", prompt_id="p", index=index, key=key, model="m", prompt="", turns=())


def job(tmp_path: Path, limits: str) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(f"provider: simulator\nmodel: m\nprompts: [a]\n{limits}\n")
    return load_job(str(path))


@pytest.mark.parametrize("of", [1, 2, 3, 7, 16, 400, 1000])
def test_every_item_is_in_exactly_one_shard_and_keeps_its_index(of: int) -> None:
    alike = AlikeItems(
        item(KEYS[0]),
        first_index=11,
        ids=[f"i{n}" for n in range(400)],
        keys=KEYS,
        texts=["t"] * 400,
        values=[{}] * 400,
    )
    plain = [item(key, index) for index, key in enumerate(KEYS, 11)]
    for items in (alike, plain):
        owners = [(one.index, one.key, n) for n in range(of) for one in Shard(number=n, of=of).own(items)]
        assert sorted(owners) == [(index, key, int(key, 16) % of) for index, key in enumerate(KEYS, 11)]


@pytest.mark.parametrize("text", ["", "1", "1/0", "2/2", "-1/2", "0/4/5", "a/b", "1.0/2", "٣/4", "0x1/2", "1/ 2"])
def test_what_names_no_shard_is_a_mistake_that_states_the_form(text: str) -> None:
    with pytest.raises(JobMistakesError, match="I counts from 0 to N-1"):
        shard_of(text)


def test_shards_are_counted_from_0() -> None:
    assert [shard_of(text) for text in ("0/1", "3/4", " 0/2 ")] == [
        Shard(number=0, of=1),
        Shard(number=3, of=4),
        Shard(number=0, of=2),
    ]


@pytest.mark.parametrize("of", [1, 3, 7])
def test_the_shares_of_all_shards_add_up_to_the_limits_of_the_job(tmp_path: Path, of: int) -> None:
    whole = job(
        tmp_path,
        "limits: {requests_per_minute: 100, tokens_per_minute: 5000, requests_per_day: 23, poll_per_second: 7}\n"
        "budget: {calls: 100, tokens: 1001, money: 3.5, currency: EUR, prices: {m: {input: 1, output: 1}}}",
    )
    shards = [with_shard(whole, Shard(number=n, of=of), folder="x") for n in range(of)]
    for name in ("requests_per_minute", "tokens_per_minute", "requests_per_day", "poll_per_second"):
        assert sum(getattr(one.limits, name) for one in shards) == pytest.approx(getattr(whole.limits, name)), name
    for name in ("calls", "tokens", "money"):
        assert sum(getattr(one.budget, name) for one in shards) == pytest.approx(getattr(whole.budget, name)), name
    daily = [one.limits.requests_per_day or 0 for one in shards]
    assert max(daily) - min(daily) <= 1


def test_polls_are_divided_where_only_the_preset_limits_them(tmp_path: Path) -> None:
    whole = job(tmp_path, "")
    share = with_shard(whole, Shard(number=0, of=4), folder="x").limits.poll_per_second
    assert share == pytest.approx(with_shard(whole, Shard(number=0, of=1), folder="x").limits.poll_per_second / 4)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("limits", "key"),
    [("limits: {requests_per_day: 3}", "limits.requests_per_day"), ("budget: {calls: 3}", "budget.calls")],
)
def test_a_limit_that_leaves_a_shard_nothing_is_a_mistake(tmp_path: Path, limits: str, key: str) -> None:
    whole = job(tmp_path, limits)
    with pytest.raises(JobMistakesError) as raised:
        with_shard(whole, Shard(number=0, of=4), folder="x")
    assert raised.value.mistakes[0].key == key
    assert "fewer shards" in str(raised.value.mistakes[0])


def test_a_shard_states_its_share_and_a_whole_job_nothing(tmp_path: Path) -> None:
    whole = job(tmp_path, "limits: {requests_per_minute: 90}")
    assert shard_notes(whole) == ()
    assert shard_notes(with_shard(whole, Shard(number=1, of=3), folder="x")) == (
        "shard 1/3: its share of the job's limits is 30 requests a minute",
    )


def sends(buckets: list[Bucket], *, until_s: float) -> list[float]:
    """When requests leave that are always there, all buckets beginning at 0."""
    times = []
    for bucket in buckets:
        now = 0.0
        while (now := now + bucket.wait_s(now)) < until_s:
            bucket.take(now)
            times.append(now)
    return sorted(times)


@pytest.mark.parametrize(("per_minute", "of"), [(1200, 3), (1200, 16), (12000, 16), (60, 4), (12, 24)])
def test_all_shards_together_never_send_more_at_once_than_a_strict_server_takes(per_minute: float, of: int) -> None:
    """The server: the limit a second, and a burst of a tenth of a second's worth or one for each shard."""
    buckets = [minute_bucket(per_minute / of, Shard(number=n, of=of)) for n in range(of)]
    server = Bucket(rate_per_s=per_minute / 60, burst=max(2.0, per_minute / 600))
    refused = 0
    times = sends(buckets, until_s=30.0)
    for now in times:
        if server.wait_s(now) > 0.001:
            refused += 1
        else:
            server.take(now)
    assert refused <= 0.02 * len(times)
    assert len(times) >= 0.9 * per_minute / 2 - of


def test_another_limit_for_a_shard_allows_no_new_burst() -> None:
    shard = Shard(number=0, of=2)
    before = minute_bucket(6000, shard)
    assert (changed := changed_bucket(before, 60, shard)) is not None
    assert (changed.burst, changed.level) == (1.0, 0.5)

"""The keys of the night: what each form means, and what is refused on which line and with which hint."""

from collections.abc import Callable
from datetime import UTC, datetime

import jsonschema
import pytest
import yaml

from batchrunner.core.budget import Budget, Price
from batchrunner.core.errors import Mistake
from batchrunner.core.job import NOTIFY_EVENTS, Job
from batchrunner.core.schedule import AfterDuration, AtDate, AtTimeOfDay, Window
from batchrunner.spec import job_schema

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"
IMAGE = "provider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\nprompts: [a cat]\n"

ALL = """\
provider:
  preset: modelscope
  points_per_day: 250
  points_per_call: {m: 0.5}
  balance: true
model: m
prompts: [a]
window: 22:00-07:00
timezone: Asia/Shanghai
deadline: 2026-11-23T07:00
budget:
  calls: 500
  tokens: 1000000
  points: 150.5
  money: 20
  currency: CNY
  prices: {m: {input: 1.2, output: 4, call: 0.001}}
notify: sh tell.sh 'done and gone'
"""


def test_every_key_of_the_schedule_arrives(load: Load) -> None:
    job = load(ALL)
    assert job.window == Window(opens_minute=1320, closes_minute=420, shown="22:00-07:00")
    assert job.timezone == "Asia/Shanghai"
    local_s = datetime(2026, 11, 23, 7, tzinfo=UTC).timestamp()
    assert job.deadline == AtDate(local_s=local_s, offset_s=None, shown="2026-11-23T07:00")
    assert job.budget == Budget(
        calls=500,
        tokens=1_000_000,
        points=150.5,
        money=20,
        currency="CNY",
        prices={"m": Price(input_per_million=1.2, output_per_million=4, per_call=0.001)},
    )
    assert job.notify == ("sh", "tell.sh", "done and gone")
    assert (job.provider.points_per_day, job.provider.points_per_call) == (250.0, {"m": 0.5})
    assert (job.provider.points_assumed, job.provider.balance) == (False, True)
    jsonschema.Draft202012Validator(job_schema()).validate(yaml.safe_load(ALL))


def test_a_job_without_them_has_none(load: Load) -> None:
    job = load(CHAT)
    assert (job.window, job.timezone, job.deadline, job.budget, job.notify) == (None, None, None, None, ())
    assert (job.provider.points_per_day, job.provider.points_per_call) == (None, {})


def test_a_simulated_run_keeps_its_points_and_asks_for_no_balance(load: Load) -> None:
    provider = load(ALL, simulate=True).provider
    assert (provider.points_per_call, provider.balance) == ({"m": 0.5}, False)


@pytest.mark.parametrize(
    ("written", "shown", "opens", "closes"),
    [
        ("9:05 - 17:30", "09:05-17:30", 545, 1050),
        ("22:00–07:00", "22:00-07:00", 1320, 420),
        ('"22:00-24:00"', "22:00-24:00", 1320, 1440),
        ("23:59-00:00", "23:59-00:00", 1439, 0),
    ],
)
def test_a_window_is_two_times_of_day(load: Load, written: str, shown: str, opens: int, closes: int) -> None:
    assert load(CHAT + f"window: {written}").window == Window(opens_minute=opens, closes_minute=closes, shown=shown)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('[{days: mon-fri, hours: "00:00-01:00"}]', "mon-fri 00:00-01:00"),
        ("[{days: mon-fri, hours: 22:00-7:00}, {days: 'sat,sun'}]", "mon-fri 22:00-07:00; sat,sun 00:00-24:00"),
        ("[{days: [Monday, wed-fri], hours: 1:00-2:00}]", "mon,wed-fri 01:00-02:00"),
        ("[{days: fri-mon, hours: 1:00-2:00}]", "mon,fri-sun 01:00-02:00"),
        ("[{days: mon-sun, hours: 1:00-2:00}, 3:00-4:00]", "01:00-02:00; 03:00-04:00"),
        ("[{hours: 22:00-07:00}]", "22:00-07:00"),
        ("mon-fri 22:00-7:00; sat,sun", "mon-fri 22:00-07:00; sat,sun 00:00-24:00"),
        ("sat", "sat 00:00-24:00"),
        ("Sat - Sun 8:00-9:00", "sat,sun 08:00-09:00"),
    ],
)
def test_a_window_has_days_of_the_week_and_its_text_states_the_same(load: Load, written: str, shown: str) -> None:
    window = load(CHAT + f"window: {written}").window
    assert window is not None
    assert window.shown == shown
    assert load(CHAT + f'window: "{shown}"').window == window
    jsonschema.Draft202012Validator(job_schema()).validate(yaml.safe_load(CHAT + f"window: {written}"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"07:00"', AtTimeOfDay(minute=420, shown="07:00")),
        ("8h", AfterDuration(seconds=28_800.0, shown="8h")),
        ("1h30m", AfterDuration(seconds=5400.0, shown="1h30m")),
        ("1d 2h", AfterDuration(seconds=93_600.0, shown="1d 2h")),
        ("90 min", AfterDuration(seconds=5400.0, shown="90 min")),
        ("45s", AfterDuration(seconds=45.0, shown="45s")),
        (
            "2026-11-23T07:00+08:00",
            AtDate(
                local_s=datetime(2026, 11, 23, 7, tzinfo=UTC).timestamp(),
                offset_s=28_800.0,
                shown="2026-11-23T07:00+08:00",
            ),
        ),
    ],
)
def test_a_deadline_is_a_time_a_date_or_a_duration(load: Load, written: str, expected: object) -> None:
    assert load(CHAT + f"deadline: {written}").deadline == expected


def test_notify_as_a_mapping_states_who_is_notified_of_what(load: Load) -> None:
    job = load(CHAT + "notify: {command: ./tell.sh now, apprise_env: PHONE, on: [paused, ended, paused]}")
    assert (job.notify, job.notify_apprise_env, job.notify_on) == (("./tell.sh", "now"), "PHONE", ("paused", "ended"))
    assert load(CHAT + "notify: {apprise_env: PHONE}").notify_on == NOTIFY_EVENTS
    assert load(CHAT + "notify: ./tell.sh").notify_on == ("ended",)
    assert load(CHAT).notify_on == ()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("notify-send done", ("notify-send", "done")),
        ("[sh, -c, 'cat > told.json; exit 1']", ("sh", "-c", "cat > told.json; exit 1")),
        ("tell 'a | b'", ("tell", "a | b")),
    ],
)
def test_notify_is_words_and_no_shell(load: Load, written: str, words: tuple[str, ...]) -> None:
    assert load(CHAT + f"notify: {written}").notify == words


def test_points_of_modelscope_are_assumed_until_the_job_states_them(load: Load) -> None:
    base = "model: m\nprompts: [a]\nprovider: "
    assumed = load(base + "modelscope").provider
    assert (assumed.points_per_day, assumed.points_per_call, assumed.points_assumed) == (200.0, {"m": 1.0}, True)
    half = load(base + "{preset: modelscope, points_per_call: 2}").provider
    assert (half.points_per_day, half.points_per_call, half.points_assumed) == (200.0, {"m": 2.0}, True)
    told = load(base + "{preset: modelscope, points_per_call: 2, points_per_day: 250}").provider
    assert told.points_assumed is False


@pytest.mark.parametrize(
    ("text", "key", "problem", "hint"),
    [
        ("window: nights", "window", 'is "nights"', ""),
        ("window: 22:00-25:00", "window", 'is "22:00-25:00"', ""),
        ("window: 22:00-22:00", "window", "same time", "leave it out"),
        ("window: 00:00-24:00", "window", "the whole day", "leave it out"),
        ("window: 22:00", "window", "base-60 number", "quotes"),
        ("window: [1]", "window[0]", "as 1", ""),
        ("window: {days: mon}", "window", "is", ""),
        ("window: []", "window", "is empty", ""),
        ("window: [{days: mon-fry}]", "window[0].days", 'is "mon-fry"', ""),
        ("window: [{days: 'mon;tue'}]", "window[0].days", 'is "mon;tue"', ""),
        ("window: [{days: []}]", "window[0].days", "is empty", ""),
        ("window: [{days: 1-5}]", "window[0].days", 'is "1-5"', ""),
        ("window: [{day: mon}]", "window[0].day", "not a known key", "`days`"),
        ("window: [sat, {hours: 22:00-25:00}]", "window[1].hours", 'is "22:00-25:00"', ""),
        ("window: [{days: mon, hours: 22:00}]", "window[0].hours", "base-60 number", "quotes"),
        ("window: [{days: mon, hours: 22:00-22:00}]", "window[0].hours", "same time", "leave it out"),
        ("window: [{days: mon-sun}]", "window", "the whole week", "leave it out"),
        ("window: [mon-fri, {days: 'sat,sun'}]", "window", "the whole week", "leave it out"),
        ("window: [0:00-12:00, 12:00-24:00]", "window", "the whole week", "leave it out"),
        ("window: mon-fri 22:00-25:00", "window", 'is "mon-fri 22:00-25:00"', ""),
        ("window: ';'", "window", "is", ""),
        ("timezone: Asia/Shangai", "timezone", "not a time zone", "`Asia/Shanghai`"),
        ("timezone: Asia", "timezone", "not a time zone", ""),
        ("timezone: ../../etc/passwd", "timezone", "not a time zone", ""),
        ("deadline: tomorrow", "deadline", 'is "tomorrow"', ""),
        ("deadline: 0h", "deadline", 'is "0h"', ""),
        ("deadline: 2026-13-01T07:00", "deadline", "is", ""),
        ("deadline: 2026-11-23", "deadline", "a date", "quotes"),
        ("batch: {use: sometimes}", "batch.use", "sometimes", ""),
        ("batch: {max_wait: soon}", "batch.max_wait", 'is "soon"', ""),
        ("batch: {look_every: 0s}", "batch.look_every", 'is "0s"', ""),
        ("batch: {max_items: 0}", "batch.max_items", "is 0", ""),
        ("budget: {}", "budget", "has no limit", ""),
        ("budget: {currency: CNY}", "budget", "has no limit", ""),
        ("budget: {calls: 0}", "budget.calls", "is 0", ""),
        ("budget: {money: -1}", "budget.money", "is -1", ""),
        ("budget: {call: 5}", "budget.call", "not a known key", "`calls`"),
        ("budget: 500", "budget", "is 500", ""),
        ("budget: {money: 5}", "budget.prices", 'no price for "m"', ""),
        ("budget: {money: 5, prices: {x: {call: 1}}}", "budget.prices", 'no price for "m"', ""),
        ("budget: {prices: {m: {}}}", "budget.prices.m", "has no price", ""),
        ("budget: {money: 5, prices: {m: {cache_read: 1}}}", "budget.prices.m", "has no price", ""),
        ("budget: {money: 5, prices: {m: {cache_write: 1, batch: 0.5}}}", "budget.prices.m", "has no price", ""),
        ("budget: {prices: {m: {inputs: 1}}}", "budget.prices.m.inputs", "not a known key", "`input`"),
        ("budget: {prices: {m: {picture: 1}}}", "budget.prices.m.picture", "`kind: image` only", ""),
        ("budget: {points: 5}", "budget.points", "costs no points", "provider.points_per_call"),
        ("notify: ''", "notify", "is empty", ""),
        ("notify: []", "notify", "is empty", ""),
        ("notify: cat > told.json", "notify", "shell syntax", "[sh, -c"),
        ("notify: say 'done", "notify", "not closed", "list"),
        ("notify: 3", "notify", "as 3", "quotes"),
        ("notify: {}", "notify", "tells nobody", ""),
        ("notify: {command: say 'done}", "notify.command", "not closed", "list"),
        ("notify: {apprise_env: 'tgram://1:abc/2'}", "notify.apprise_env", "not the name of an", "variable"),
        ("notify: {command: x, on: [finished]}", "notify.on[0]", "finished", ""),
        ("notify: {command: x, on: []}", "notify.on", "", ""),
    ],
)
def test_nonsense_is_refused_on_its_line(mistakes: Mistakes, text: str, key: str, problem: str, hint: str) -> None:
    (mistake,) = mistakes(CHAT + text)
    assert (mistake.key, mistake.line) == (key, 4)
    assert problem in mistake.problem
    assert hint in (mistake.hint or "")


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        (IMAGE + "batch: {use: auto}", "batch", "is for the dialect openai-chat"),
        (IMAGE + "budget: {tokens: 5}", "budget.tokens", "`kind: chat` only"),
        (CHAT.replace("simulator", "{preset: openai, balance: true}"), "provider.balance", "ModelScope only"),
        (CHAT.replace("simulator", "{preset: modelscope, points_per_day: 0}"), "provider.points_per_day", "is 0"),
        (CHAT.replace("simulator", "{preset: modelscope, points_per_call: -1}"), "provider.points_per_call", "is -1"),
        (
            CHAT.replace("simulator", "{preset: modelscope, points_per_call: {n: 1}}"),
            "provider.points_per_call.n",
            "not a model of this job",
        ),
    ],
)
def test_what_does_not_fit_the_rest_of_the_job_is_refused(
    mistakes: Mistakes, text: str, key: str, problem: str
) -> None:
    (mistake,) = mistakes(text)
    assert mistake.key == key
    assert problem in mistake.problem


def test_a_setting_can_change_and_drop_a_window(load: Load) -> None:
    text = CHAT + "window: 22:00-07:00\n"
    assert load(text, overrides=["window=null"]).window is None
    changed = load(text, overrides=["window=01:00-02:00", 'deadline="07:00"', "budget.calls=5"])
    assert changed.window is not None
    assert changed.window.shown == "01:00-02:00"
    assert changed.budget is not None
    assert changed.budget.calls == 5

"""The simulated provider: answers calls with scripts, counts what was paid. Pure and seeded.

Opens nothing, waits for nothing and reads no clock: the caller passes the time and plays the script. To add an
endpoint: one line in ENDPOINTS, or in GENERATIONS when it is paid for.
"""

import json
from collections.abc import Callable
from functools import partial

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Json
from batchrunner.core.values import asdict, replace
from batchrunner.simulator.drawing import Paint, draw
from batchrunner.simulator.generation import GENERATIONS, Generation, Verdict, apply_failure_mode
from batchrunner.simulator.profiles import ANSWER_FAULTS, INSTANT, NO_FAULTS, FaultRates, Latency
from batchrunner.simulator.quotas import (
    NO_LIMITS,
    Account,
    Accounts,
    LaneLimiters,
    Quota,
    RateLimits,
    SimulatedLane,
    rate_headers,
)
from batchrunner.simulator.refusals import REFUSALS, Refusal, invalid, refuse
from batchrunner.simulator.requests import (
    Chosen,
    LogEntry,
    Order,
    RequestLog,
    Stats,
    content_before,
    content_of,
    delay,
    slow_to_refuse,
)
from batchrunner.simulator.scenario_rules import failure_mode_of, refusal_of
from batchrunner.simulator.scenarios import parse_scenarios
from batchrunner.simulator.script import (
    Call,
    Delay,
    Hang,
    RandomSource,
    Reset,
    Role,
    Script,
    Visit,
    digest_of,
    json_script,
)
from batchrunner.simulator.simulated_batches import SimulatedBatches
from batchrunner.simulator.simulated_message_batches import SimulatedMessageBatches
from batchrunner.simulator.simulated_tasks import SimulatedTasks
from batchrunner.simulator.simulated_videos import STEPS as VIDEO_STEPS
from batchrunner.simulator.storage import Storage
from batchrunner.simulator.transcription_replies import FORM_TYPE, form_of

# The models that the simulated provider lists.

MODELS = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-235B-A22B",
    "deepseek-ai/DeepSeek-V4-Flash",
    "Qwen/Qwen-Image",
    "black-forest-labs/FLUX.1-Krea-dev",
    "Tongyi-MAI/Z-Image-Turbo",
)
"""What `GET /v1/models` lists. Every other id is served as well."""


_BY_PATH = {kind.path: kind for kind in GENERATIONS.values()}
FILES_HOST = "http://files.simulator.invalid"


class World:
    """A provider with one memory. See `FaultRates`, `Latency`, `Quota` and `scenarios` for what it can do."""

    def __init__(
        self,
        seed: int = 0,
        *,
        faults: FaultRates = NO_FAULTS,
        scenario: str | None = None,
        latency: Latency = INSTANT,
        quota: Quota | None = None,
        limits: RateLimits = NO_LIMITS,
        answer_tokens: int | None = None,
        paint: Paint = draw,
        films: bool = False,
        auth: bool = False,
        tokens: frozenset[str] | None = None,
        log_size: int = 10_000,
        unread: bool = False,
    ) -> None:
        """Make a world without a past.

        Args:
            seed: of everything that looks like chance.
            faults: what goes wrong by chance.
            scenario: asked for by every model that names none itself.
            latency: how long things take.
            quota: calls a day.
            limits: calls a minute and at once.
            answer_tokens: about how many tokens answers are counted as; None counts what they say.
            paint: makes the pictures.
            films: tasks of pictures give videos: what a job of `kind: media` wants.
            auth: refuse calls without a token.
            tokens: refuse every other token; None takes any. Ones like `bad-…` and `unbound-…` are refused always.
            log_size: how many requests the log remembers.
            unread: answers are not read: texts may be left out where their counts and times are known.

        Raises:
            JobMistakesError: an unknown scenario.
        """
        self.seed = seed
        self.faults = faults
        self.latency = latency
        self.quota = quota or Quota()
        self.limits = limits
        self.answer_tokens = answer_tokens
        self._making = partial(SimulatedTasks, seed=seed, faults=faults, latency=latency, paint=paint, films=films)
        self.files_base = FILES_HOST
        self._auth = auth or tokens is not None
        self._tokens = tokens
        self._log_size = log_size
        self._unread = unread
        self._scenario = parse_scenarios(scenario or "")
        self._begin()

    def __repr__(self) -> str:
        log = self.log
        counts = f"{log.number} requests, {log.sends} sends, {log.paid} paid, {log.paid_twice} twice"
        return f"World(seed={self.seed}, {counts})"

    def answer(self, call: Call, now: float) -> Script:
        """The script for a call that came at `now` (wall clock, seconds). Call `leave` when it has been played."""
        self.log.number += 1
        path, _, query = call.path.partition("?")
        number = self.log.number
        request_id = f"{number if self._unread else digest_of(f'{self.seed}/{number}', bits=128):032x}"
        visit = Visit(call, path, query, now, self.log.number, request_id)
        endpoint = _endpoint(call.role, call.method, path)
        if endpoint is None:
            script = refuse(REFUSALS["no-path"], model="", request_id=visit.request_id)
            return self._noted(visit, "unknown path", Verdict(script, "no path"))
        return endpoint(self, visit)

    def leave(self, script: Script) -> None:
        """The exchange of this script is over, whoever ended it."""
        if script.lane is not None:
            self._accounts.leave(script.lane)
            if script.let_in:
                self._lane_limiters.of(script.lane).leave()
            self.log.leave()

    def remember(self, *, token: str, model: str, calls: int, now: float) -> None:
        """Calls of this day that came before this world was made."""
        lane = self._accounts.lane(self._accounts.account(token), model)
        for _ in range(calls):
            lane.count_executed(now)

    def stats(self) -> Stats:
        """The counters."""
        log = self.log
        return Stats(
            requests=dict(log.requests),
            verdicts=dict(log.verdicts),
            sends=log.sends,
            refused=log.refused,
            paid=log.paid,
            paid_twice=log.paid_twice,
            tasks=log.verdicts["task accepted"],
            batches=self._batches.created + self._message_batches.created,
            polls=log.requests["poll"],
            most_polls_of_a_task=self.tasks.most_polls,
            downloads=log.requests["download"],
            in_flight=log.in_flight,
            max_in_flight=log.max_in_flight,
            max_per_second=log.max_per_second,
            too_early=self._accounts.too_early,
            storage_credentials=dict(log.storage_credentials),
        )

    def _begin(self) -> None:
        self.log = RequestLog(size=self._log_size)
        self.tasks = self._making()
        self._storage = Storage(self.tasks, seed=self.seed, faults=self.faults, latency=self.latency)
        self._batches = SimulatedBatches(
            seed=self.seed, latency=self.latency, execute=self._execute_line, choose=self._chosen
        )
        self._message_batches = SimulatedMessageBatches(
            seed=self.seed, latency=self.latency, execute=self._execute_line, choose=self._chosen
        )
        self._accounts = Accounts()
        self._lane_limiters = LaneLimiters(self.limits)

    def _noted(self, visit: Visit, kind: str, verdict: Verdict, order: Order | None = None) -> Script:
        if not self._log_size:
            self.log.count(kind, verdict.name)
            return verdict.script
        headless = any(isinstance(step, Reset | Hang) for step in verdict.script.early)
        self.log.add(
            LogEntry(
                number=visit.number,
                at=visit.now,
                method=visit.call.method,
                path=visit.path,
                kind=kind,
                status=0 if headless else verdict.script.status,
                verdict=verdict.name,
                account=order.lane.account.hash if order else "",
                model=order.model if order else "",
                content=f"{order.random_source.content:016x}" if order else "",
                nth=order.nth if order else 0,
                paid=verdict.paid,
                in_flight=self.log.in_flight,
            )
        )
        return verdict.script

    # -- what is paid for

    def generate(self, visit: Visit, kind: str) -> Script:
        """A POST that makes something: admitted, checked, perhaps refused or struck, else executed."""
        self.log.sends += 1
        account, refusal = self._admit(visit)
        order = None if refusal else self._order(visit, account)
        if not isinstance(order, Order):
            said = refusal or order or REFUSALS["no-token"]
            self.log.refused += 1
            script = refuse(said, model="", request_id=visit.request_id)
            return self._noted(visit, kind, Verdict(script, f"refused {said.status}"))
        verdict = self._decide(GENERATIONS[kind], order)
        if verdict.paid:
            for content in GENERATIONS[kind].contents(order):
                self.log.count_paid(content)
        self.log.refused += verdict.script.status >= 400
        rates = self._rates(order, quiet=verdict.quiet)
        headers = {**rates, **verdict.script.headers, "x-request-id": order.request_id}
        script = verdict.script
        script.headers, script.lane, script.let_in = headers, order.lane.key, verdict.let_in
        return self._noted(visit, kind, verdict, order)

    def _admit(self, visit: Visit) -> tuple[Account, Refusal | None]:
        token = visit.call.token
        account = self._accounts.account(token)
        self.log.max_per_second = max(self.log.max_per_second, account.count_request(visit.now))
        if token.startswith("unbound-"):
            return account, REFUSALS["unbound"]
        if token.startswith("bad-") or (self._tokens is not None and token and token not in self._tokens):
            return account, REFUSALS["bad-token"]
        return account, REFUSALS["no-token"] if self._auth and not token else None

    def _order(self, visit: Visit, account: Account) -> Order | Refusal:
        kind = visit.call.headers.get("content-type", "")
        try:
            is_form = kind.startswith(FORM_TYPE)
            body: Json = form_of(visit.call.body, kind) if is_form else json.loads(visit.call.body)
        except (ValueError, RecursionError):
            return invalid("JSON parse error: the request body is not valid JSON.", shape="B")
        if not isinstance(body, dict):
            return invalid("The request body must be a JSON object.", shape="B")
        model = body.get("model")
        if not isinstance(model, str) or not model.strip():
            return REFUSALS["bad-model-id"]
        try:
            chosen = self._chosen(model)
        except JobMistakesError as mistakes:
            return invalid(str(mistakes), shape="B")
        return self._entered(visit, account, body=body, model=model, chosen=chosen)

    def _chosen(self, model: str) -> Chosen:
        """Raises JobMistakesError."""
        return parse_scenarios(model.partition("#")[2]) if "#" in model else self._scenario

    def _entered(self, visit: Visit, account: Account, *, body: dict[str, Json], model: str, chosen: Chosen) -> Order:
        content = content_of(account.hash, body)
        random_source = RandomSource(seed=self.seed, content=content, nth=self.log.sent(content))
        lane = self._accounts.lane(account, model)
        lane.calls += 1
        lane.in_flight += 1
        self.log.enter()
        return Order(
            now=visit.now,
            headers=visit.call.headers,
            body=body,
            model=model,
            chosen=chosen,
            lane=lane,
            random_source=random_source,
            request_id=visit.request_id,
            latency=self.latency,
            files_base=self.files_base,
            breaks_schema=_misses(chosen, lane) or self._breaks_schema(account, body, random_source),
            answer_tokens=self.answer_tokens,
            unread=self._unread,
        )

    def _breaks_schema(self, account: Account, body: dict[str, Json], random_source: RandomSource) -> bool:
        """By chance, and only where neither this order nor the one that it continues was answered before."""
        if self.faults.pick(random_source, ANSWER_FAULTS) is None or self.log.answered(random_source.content):
            return False
        return not self.log.answered(content_before(account.hash, body))

    def _decide(self, kind: Generation, order: Order) -> Verdict:
        refusal = kind.check(order) or self._spent(order) or refusal_of(order)
        refusal = refusal or self._lane_limiters.of(order.lane.key).enter(order.now)
        if refusal is not None:
            script = slow_to_refuse(order.refuse(refusal), order)
            return Verdict(script, f"refused {refusal.status}", quiet=refusal.quiet)
        verdict = self._let_in(kind, order)
        verdict.let_in = True
        return verdict

    def _let_in(self, kind: Generation, order: Order) -> Verdict:
        failure_mode = failure_mode_of(order, self.faults)
        if failure_mode is None or failure_mode in kind.spared:
            return self._execute(kind, order)
        return apply_failure_mode(failure_mode, order, lambda: self._execute(kind, order), self.faults)

    def _execute(self, kind: Generation, order: Order) -> Verdict:
        verdict = kind.execute(order, self.tasks)
        order.lane.count_executed(order.now)
        delay(verdict.script, order)
        return verdict

    def _limits(self, order: Order) -> tuple[int | None, int | None]:
        """(account, model): calls a day, those that a scenario asks for first."""
        account, model = self.quota.account_per_day, self.quota.model_per_day
        if "quota-account" in order.chosen:
            account = int(order.figure("quota-account", 0))
        if "quota-model" in order.chosen:
            model = int(order.figure("quota-model", 0))
        return account, model

    def _spent(self, order: Order) -> Refusal | None:
        account, model = self._limits(order)
        if model is not None and order.lane.used(order.now) >= model:
            return REFUSALS["Q1"]
        return REFUSALS["T2"] if account is not None and order.lane.account.used(order.now) >= account else None

    def _rates(self, order: Order, *, quiet: bool) -> dict[str, str]:
        account, model = self._limits(order)
        return {} if quiet else rate_headers(order.lane, now=order.now, account_limit=account, model_limit=model)

    # -- batches

    def batch(self, visit: Visit, step: Callable[[SimulatedBatches, Visit, str], Script], kind: str) -> Script:
        """A call about files and batches."""
        return self._about_account(visit, partial(step, self._batches), kind)

    def message_batch(
        self, visit: Visit, step: Callable[[SimulatedMessageBatches, Visit, str], Script], kind: str
    ) -> Script:
        """A call about message batches."""
        return self._about_account(visit, partial(step, self._message_batches), kind)

    def video(self, visit: Visit, step: Callable[[SimulatedTasks, Visit, str], Script], kind: str) -> Script:
        """A call about videos of OpenAI's kind."""
        return self._about_account(visit, partial(step, self.tasks), kind)

    def _about_account(self, visit: Visit, step: Callable[[Visit, str], Script], kind: str) -> Script:
        account, refusal = self._admit(visit)
        if refusal is not None:
            script = refuse(refusal, model="", request_id=visit.request_id)
        else:
            script = step(visit, account.hash)
        return self._noted(visit, kind, Verdict(script, f"{kind} {script.status}"))

    def _execute_line(self, visit: Visit, body: dict[str, Json], path: str) -> tuple[int, bytes]:
        """A request of a batch: paid for as if it had come by itself, without what happens on the way."""
        model = body.get("model")
        if not isinstance(model, str) or not model.strip():
            return 400, refuse(REFUSALS["bad-model-id"], model="", request_id=visit.request_id).body
        kind = _BY_PATH[path]
        account = self._accounts.account(visit.call.token)
        order = self._entered(visit, account, body=body, model=model, chosen=self._chosen(model))
        refusal = kind.check(order) or refusal_of(order)
        if refusal is not None:
            verdict = Verdict(order.refuse(refusal), f"refused {refusal.status}")
        else:
            verdict = kind.execute(order, self.tasks)
        if verdict.paid:
            self.log.count_paid(order.random_source.content)
        self._accounts.leave(order.lane.key)
        self.log.leave()
        self.log.count("batch line", verdict.name)
        return verdict.script.status, verdict.script.body

    # -- what is free

    def poll(self, visit: Visit) -> Script:
        """How a task stands."""
        account, refusal = self._admit(visit)
        if refusal:
            script = refuse(refusal, model="", request_id=visit.request_id)
            return self._noted(visit, "poll", Verdict(script, f"refused {refusal.status}"))
        script = self.tasks.poll(visit, account=account.hash, files_base=self.files_base)
        lane = self._accounts.lane(account, self.tasks.model_of(visit.path))
        quota = self.quota
        rates = rate_headers(lane, now=visit.now, account_limit=quota.account_per_day, model_limit=quota.model_per_day)
        wait_s = self.latency.poll_s
        early = (Delay(seconds=wait_s),) if wait_s else ()
        script = replace(script, headers={**rates, **script.headers, "x-request-id": visit.request_id}, early=early)
        return self._noted(visit, "poll", Verdict(script, f"poll {script.status}"))

    def models(self, visit: Visit) -> Script:
        """The list of models; tokens are not checked."""
        models: list[Json] = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in MODELS]
        return self._noted(visit, "models", Verdict(json_script({"object": "list", "data": models}), "listed"))

    def balance(self, visit: Visit) -> Script:
        """Points of the account: what it started from less one for each call."""
        account, refusal = self._admit(visit)
        if refusal or not visit.call.token:
            script = refuse(refusal or REFUSALS["no-token"], model="", request_id=visit.request_id)
            return self._noted(visit, "balance", Verdict(script, "refused 401"))
        left = max(0.0, self.quota.points - account.executed)
        points: Json = {"total_balance": left, "available_balance": left, "frozen_amount": 0}
        reply: Json = {"success": True, "request_id": visit.request_id, "data": points}
        return self._noted(visit, "balance", Verdict(json_script(reply), "told"))

    def download(self, visit: Visit) -> Script:
        """A picture, or what the storage host has instead."""
        self.log.note_credentials(visit.call.headers)
        script = self._storage.fetch(visit.path, visit.query, now=visit.now)
        return self._noted(visit, "download", Verdict(script, f"download {script.status}"))

    # -- for whoever watches

    def show_stats(self, _visit: Visit) -> Script:
        """The counters as JSON; such a look is not counted."""
        self.log.number -= 1
        return json_script(asdict(self.stats()))

    def show_log(self, visit: Visit) -> Script:
        """The remembered requests after `?since=N`."""
        self.log.number -= 1
        said = visit.query.removeprefix("since=")
        return json_script({"requests": self.log.since(int(said) if said.isdecimal() and len(said) < 19 else 0)})

    def reset(self, _visit: Visit) -> Script:
        """Begin anew with the same settings: no tasks, no counts, no lanes."""
        self._begin()
        return json_script({"reset": True})


ENDPOINTS: dict[tuple[Role, str, str], Callable[[World, Visit], Script]] = {
    **{("api", "POST", made.path): partial(World.generate, kind=kind) for kind, made in GENERATIONS.items()},
    ("api", "GET", "/v1/tasks/"): World.poll,
    ("api", "GET", "/v1/models"): World.models,
    ("api", "GET", "/openapi/v1/magicubes/balance"): World.balance,
    **{
        ("api", method, path): partial(World.batch, step=step, kind=kind)
        for method, path, kind, step in (
            ("POST", "/v1/files", "upload", SimulatedBatches.upload),
            ("GET", "/v1/files/", "file", SimulatedBatches.file),
            ("GET", "/v1/files/*/content", "content", SimulatedBatches.content),
            ("POST", "/v1/batches", "batch", SimulatedBatches.create),
            ("GET", "/v1/batches", "batches", SimulatedBatches.listing),
            ("GET", "/v1/batches/", "look", SimulatedBatches.look),
            ("POST", "/v1/batches/*/cancel", "cancel", SimulatedBatches.cancel),
        )
    },
    **{
        ("api", method, f"/v1/messages/batches{path}"): partial(World.message_batch, step=step, kind=kind)
        for method, path, kind, step in (
            ("POST", "", "batch", SimulatedMessageBatches.create),
            ("GET", "", "batches", SimulatedMessageBatches.listing),
            ("GET", "/", "look", SimulatedMessageBatches.look),
            ("GET", "/*/results", "content", SimulatedMessageBatches.results),
            ("POST", "/*/cancel", "cancel", SimulatedMessageBatches.cancel),
        )
    },
    **{("api", method, path): partial(World.video, step=step, kind=kind) for method, path, kind, step in VIDEO_STEPS},
    ("files", "GET", "/files/"): World.download,
    ("api", "GET", "/_simulator/stats"): World.show_stats,
    ("api", "GET", "/_simulator/log"): World.show_log,
    ("api", "POST", "/_simulator/reset"): World.reset,
}
"""(port, method, path) to what answers it. A path that ends in a slash is followed by a name, a `*` is one."""


def _misses(chosen: Chosen, lane: SimulatedLane) -> bool:
    """Whether a scenario wants this call's answer to miss its schema."""
    first_calls = chosen.get("schema-miss")
    return "schema-miss" in chosen and (first_calls is None or lane.calls <= first_calls)


def _endpoint(role: Role, method: str, path: str) -> Callable[[World, Visit], Script] | None:
    found = ENDPOINTS.get((role, method, path))
    if found is None:
        above, _, last = path.rpartition("/")
        found = ENDPOINTS.get((role, method, f"{above}/")) or ENDPOINTS.get(
            (role, method, f"{above[: above.rfind('/') + 1]}*/{last}")
        )
    return found

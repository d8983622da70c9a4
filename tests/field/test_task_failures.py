"""A task that ended FAILED is judged by its reason, as a submit that is refused with these words would be."""

import pytest

from tests.field.runs import Field
from tests.field.server import json_reply
from tests.field.tasks import ACCEPTED, DONE, RUNNING, TaskCase, Tasks, check_task_case, failed, image_job

OOM = "Model inference failed: out of memory"


def once(name: str, errors: object, kind: str, words: str = "", **fields: object) -> TaskCase:
    return TaskCase(
        name=name, polls=[failed(errors, **fields)], orders=1, exit_status=1, done=0, failed=1, kind=kind, words=words
    )


CASES = (
    once("nsfw", {"message": "NSFW content detected"}, "content_filter", "NSFW content detected"),
    once(
        "all images contained nsfw",
        {"message": "All generated images contained NSFW content. Try running it again with a different prompt."},
        "content_filter",
    ),
    once("net check", {"message": "Green net check failed for image [sensitive]"}, "content_filter"),
    once(
        "a code of inspection",
        {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."},
        "content_filter",
    ),
    once("code and message at the top", None, "content_filter", code="DataInspectionFailed", message="Not allowed."),
    once("the output's own message", None, "content_filter", output={"message": "prompt violates our content policy"}),
    once("in Chinese", {"message": "内容违规，请修改提示词"}, "content_filter"),
    once("a code of safety", None, "content_filter", failure="f", failureCode="SAFETY.INPUT.TEXT"),
    once("a code alone", {"code": "DataInspectionFailed"}, "content_filter"),
    once("moderation of the output", None, "content_filter", error="Output blocked by content moderation"),
    once("an invalid LoRA", {"message": "invalid LoRA: lora/x is not compatible with the base model"}, "bad_request"),
    once("a size", {"message": "The size is not supported by this model"}, "bad_request"),
    once("out of range", {"message": "steps must be between 1 and 100"}, "bad_request"),
    once("an invalid parameter by code", {"code": "InvalidParameter", "message": "size"}, "bad_request"),
    once("a status of 400 within", {"code": 400, "message": "nobody knows these words"}, "bad_request"),
    once("too many LoRAs", {"message": "too many loras: 7 > 6"}, "bad_request"),
    once("fail_reason", None, "bad_request", "unsupported sampler", fail_reason="unsupported sampler"),
    once("failReason", None, "bad_request", "unsupported sampler", failReason="unsupported sampler"),
    once("task_error", None, "bad_request", "invalid seed", task_error="invalid seed"),
    once("task_error, an object", None, "bad_request", "invalid seed", task_error={"message": "invalid seed"}),
    once("reason", None, "bad_request", "prompt is too long", reason="prompt is too long"),
    once("error, a text", None, "bad_request", "prompt is too long", error="prompt is too long"),
    once("error, an object", None, "bad_request", "prompt is too long", error={"detail": "prompt is too long"}),
    once("errors, a list", [{"message": "invalid mask"}], "bad_request", "invalid mask"),
    once("detail, a list", None, "bad_request", "invalid mask", detail=[{"msg": "invalid mask"}]),
    once("a LoRA that is not there", {"message": "Task failed: LoRA me/x not found"}, "bad_request"),
    once("failure_reason", None, "bad_request", "invalid mask", failure_reason="invalid mask"),
    once("a reason two levels down", {"detail": {"reason": "content policy violation"}}, "content_filter"),
    once("a state of its own for what is unsafe", None, "content_filter", task_status="UNSAFE"),
    once("a failure that says so in its state", None, "content_filter", task_status="FAILED_NSFW"),
    once("message beside the state", None, "bad_request", "invalid mask", message="invalid mask"),
    TaskCase(
        name="wrapped, with a message of the wrapper's own",
        polls=[{"code": 200, "message": "success", "data": {"status": "failed", "fail_reason": "NSFW content"}}],
        exit_status=1,
        done=0,
        failed=1,
        kind="content_filter",
        words="NSFW content",
    ),
    TaskCase(
        name="succeeded, no picture, and why",
        polls=[{**DONE, "output_images": [], "errors": {"message": "NSFW content detected, image blocked"}}],
        exit_status=1,
        done=0,
        failed=1,
        kind="content_filter",
        words="image blocked",
    ),
    TaskCase(
        name="failed in the submit's own reply",
        submits=[failed({"message": "invalid LoRA"})],
        exit_status=1,
        done=0,
        failed=1,
        kind="bad_request",
        words="invalid LoRA",
    ),
    TaskCase(
        name="filtered in the submit's own reply",
        submits=[{"id": "T", "status": "Content Moderated"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="content_filter",
    ),
    TaskCase(
        name="a refusal inside a 200",
        submits=[{"success": False, "code": 40212, "message": "model not available through API"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="model_not_found",
    ),
    TaskCase(
        name="bad parameters inside a 200",
        submits=[{"code": 1210, "success": False, "msg": "invalid parameter: size"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="bad_request",
    ),
    TaskCase(
        name="Content Moderated as a state",
        polls=[{"task_id": "T", "task_status": "Content Moderated"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="content_filter",
    ),
    TaskCase(
        name="Request Moderated in another field",
        polls=[{"id": "T", "status": "Request Moderated"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="content_filter",
    ),
    TaskCase(
        name="EXPIRED as a state",
        polls=[{"task_id": "T", "task_status": "EXPIRED"}],
        orders=3,
        exit_status=1,
        done=0,
        failed=1,
        kind="task_failed",
    ),
    TaskCase(
        name="rejected",
        polls=[{"task_id": "T", "status": "rejected"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="bad_request",
    ),
    TaskCase(
        name="aborted",
        polls=[{"task_id": "T", "status": "aborted"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="task_cancelled",
    ),
    TaskCase(
        name="what befalls the machine is tried again",
        polls=[failed({"message": OOM})],
        orders=3,
        exit_status=1,
        done=0,
        failed=1,
        kind="task_failed",
        words=OOM,
    ),
    TaskCase(
        name="an invalid access to memory is the machine's",
        polls=[failed({"message": "CUDA error: an illegal memory access, invalid argument"})],
        orders=3,
        exit_status=1,
        done=0,
        failed=1,
        kind="task_failed",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_failed_task_is_classified_by_its_reason(field: Field, case: TaskCase) -> None:
    check_task_case(field, case)


def test_a_failure_without_words_is_read_again_a_second_later(field: Field) -> None:
    tasks = Tasks(polls=[failed({"code": 0, "message": ""}), failed({"message": OOM})])
    ran = field.run(tasks, image_job(retry={"attempts": 1}))
    assert (tasks.orders, tasks.polled[1]) == (1, 2)
    assert tasks.poll_times[1] - tasks.poll_times[0] <= 2.0
    assert OOM in ran.failures[0]["error"]["message"]


@pytest.mark.parametrize("second", [failed({"code": 0, "message": ""}), failed(), failed(None, reason="")])
def test_a_failure_that_stays_without_words_is_believed(field: Field, second: object) -> None:
    tasks = Tasks(polls=[second])
    ran = field.run(tasks, image_job(retry={"attempts": 1}))
    assert (tasks.orders, tasks.polled[1]) == (1, 2)
    assert ran.failures[0]["error"]["class"] == "task_failed"


@pytest.mark.parametrize(
    "words",
    [
        "We have to rate limit you for model Qwen/Qwen-Image.",
        "Request limit exceeded.",
        "Server is busy: too many requests",
        "429 Too Many Requests",
        "The queue is full, try later",
    ],
)
def test_a_throttled_task_costs_no_try(field: Field, words: str) -> None:
    tasks = Tasks(by_order={1: [failed({"message": words})], 2: [failed({"message": words})]})
    ran = field.run(tasks, image_job(retry={"attempts": 2}))
    assert (ran.exit_status, tasks.orders, len(ran.rows)) == (0, 3, 1), ran.report
    assert ran.rows[0]["attempts"] == 1
    assert tasks.order_times[1] - tasks.order_times[0] >= 2.0


@pytest.mark.parametrize(
    "words",
    [
        "You have exceeded today's quota for model Qwen/Qwen-Image, please try again tomorrow",
        "You have exceeded today's quota, please try again tomorrow",
    ],
)
def test_a_quota_that_a_task_reports_is_waited_for_and_fails_no_item(field: Field, words: str) -> None:
    tasks = Tasks(at=lambda asked, _: failed({"message": words}) if asked.at_s < 3600.0 else None)
    ran = field.run(tasks, image_job(items=4))
    assert (ran.exit_status, len(ran.rows)) == (0, 4), ran.report
    assert tasks.orders <= 8
    assert {row["attempts"] for row in ran.rows} == {1}


def test_a_quota_of_a_task_stops_a_job_that_does_not_wait(field: Field) -> None:
    words = "You have exceeded today's quota for model Qwen/Qwen-Image, please try again tomorrow"
    tasks = Tasks(polls=[failed({"message": words})])
    ran = field.run(tasks, image_job(items=4, on_quota="stop", limits={"concurrency": 1, "in_flight_tasks": 1}))
    assert (ran.exit_status, tasks.orders, ran.failures) == (3, 1, [])
    assert "today's quota" in (ran.report.status.message or "")


def test_words_about_the_model_fail_all_its_items_after_two(field: Field) -> None:
    tasks = Tasks(polls=[failed({"message": "Qwen/Qwen-Image has no provider supported"})])
    ran = field.run(tasks, image_job(items=5, limits={"concurrency": 1, "in_flight_tasks": 1}))
    assert (ran.exit_status, tasks.orders, len(ran.failures)) == (1, 2, 5)
    assert {row["error"]["class"] for row in ran.failures} == {"model_not_found"}


def test_an_insufficient_balance_fares_as_with_a_status_of_its_own(field: Field) -> None:
    words = "insufficient balance"
    limits = {"concurrency": 1, "in_flight_tasks": 1}
    told = []
    for name, tasks in (
        ("task", Tasks(polls=[failed({"message": words})])),
        ("submit", Tasks(submits=[json_reply({"errors": {"message": words}}, status=429)])),
    ):
        (field.folder / name).mkdir()
        ran = Field(field.folder / name).run(tasks, image_job(items=5, limits=limits))
        told.append((tasks.orders, ran.exit_status, len(ran.failures)))
    assert told[0] == told[1]
    assert told[0][0] < 5


@pytest.mark.parametrize("words", ["Account is in arrears", "Arrearage: please recharge", "账户欠费"])
def test_an_unpaid_account_ends_the_run_with_5_and_fails_nothing(field: Field, words: str) -> None:
    tasks = Tasks(polls=[failed({"message": words})])
    ran = field.run(tasks, image_job(items=5, limits={"concurrency": 1, "in_flight_tasks": 1}))
    assert (ran.exit_status, tasks.orders, ran.failures) == (5, 1, [])
    assert words in (ran.report.status.message or "")


def test_the_breaker_sees_tasks_that_fail_as_it_sees_submits(field: Field) -> None:
    words = "Model inference failed: CUDA error"
    job = image_job(items=40, breaker=5, retry={"attempts": 2}, deadline="2h")
    tasks = Tasks(polls=[failed({"message": words})])
    ran = field.run(tasks, job)
    assert (ran.exit_status, ran.failures) == (3, [])
    early = [at for at in tasks.order_times if at < 60.0]
    assert len(early) <= 12
    assert tasks.orders <= 30
    assert words in str(ran.events("parked"))


def test_a_lane_that_failing_tasks_parked_opens_with_the_first_that_succeeds(field: Field) -> None:
    broken = failed({"message": "Model inference failed: CUDA error"})
    tasks = Tasks(at=lambda asked, _: broken if asked.at_s < 300.0 else None)
    limits = {"concurrency": 4, "in_flight_tasks": 4}
    ran = field.run(tasks, image_job(items=40, breaker=5, limits=limits))
    assert (ran.exit_status, len(ran.rows)) == (0, 40), ran.report
    assert tasks.orders <= 70


def test_a_gateway_that_states_accepted_and_running_ends_well(field: Field) -> None:
    tasks = Tasks(submits=[ACCEPTED], polls=[RUNNING, RUNNING, DONE])
    assert field.run(tasks, image_job()).exit_status == 0
    assert tasks.orders == 1

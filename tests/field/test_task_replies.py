"""What is accepted or finished is found in every wrapping; what cannot be found is held, and never ordered again."""

import base64
from typing import Any

import pytest

from tests.field.runs import KEY, Field
from tests.field.server import Reply, http, json_reply
from tests.field.tasks import ACCEPTED, DONE, PNG, RUNNING, TaskCase, Tasks, check_task_case, image_job

PACKED = base64.b64encode(PNG).decode()


def submit(name: str, reply: Any, **more: Any) -> TaskCase:
    return TaskCase(name=name, submits=[reply], **more)


def poll(name: str, reply: Any, **more: Any) -> TaskCase:
    return TaskCase(name=name, polls=[reply], **more)


def held(name: str, reply: Any, words: str = "") -> TaskCase:
    return TaskCase(name=name, submits=[reply], exit_status=3, done=0, kind="not_understood", words=words)


SUBMITS = (
    submit("below data", {"success": True, "data": {"task_id": "T"}}),
    submit("below data with a status", {"data": {"status": "submitted", "task_id": "T"}}),
    submit("an id with a status", {"id": "T", "status": "queued"}),
    submit("camel case", {"taskId": "T"}),
    submit("a list of ids", {"task_ids": ["T"]}),
    submit("a list of two ids", {"task_ids": ["T", "t9"]}),
    submit("below output", {"output": {"task_id": "T", "task_status": "PENDING"}, "request_id": "r"}),
    submit("below result, camel case", {"code": 0, "result": {"taskId": "T"}}),
    submit("below response", {"response": {"task_id": "T"}}),
    submit("twice wrapped", {"code": 200, "data": {"result": {"task_id": "T"}}}),
    submit("a list below data", {"data": [{"task_id": "T", "status": "submitted"}]}),
    submit("a list of tasks", {"tasks": [{"id": "T"}]}),
    submit("an object called task", {"task": {"id": "T"}}),
    submit("JSON in a text", {"code": 200, "data": '{"task_id": "T"}'}),
    submit("an id alone", {"id": "T"}),
    submit("an id beside a request's", {"id": "T", "request_id": "r", "model": "m"}),
    submit("job_id", {"job_id": "T", "status": "queued"}),
    submit("a number", {"task_id": 1}),
    submit("a number below data", {"data": {"task_id": 1}}),
    submit("a number as the result", {"code": 1, "description": "submitted", "result": "1320098173412546001"}),
    submit("upper case", {"TaskId": "T"}),
    submit("504 with the id", json_reply({"errors": {"message": "upstream timed out"}, "task_id": "T"}, status=504)),
    submit("500 with the id below data", json_reply({"error": "x", "data": {"task_id": "T"}}, status=500)),
    submit("524 with the id", json_reply({"task_id": "T"}, status=524)),
    submit("cut off behind the id", http('{"task_id": "T", "task_sta')),
    submit("cut off below data", http('{"success": true, "data": {"task_id": "T", "sta')),
    submit("cut off, an id with a status", http('{"id": "T", "status": "queued", "mod')),
    submit("an error beside the id", {"task_id": "T", "errors": {"message": "x"}}),
    submit("SUCCEED means accepted", {"task_id": "T", "task_status": "SUCCEED", "request_id": "r"}),
    submit(
        "the request's own picture is no result",
        {"task_id": "T", "task_status": "PENDING", "images": ["https://x.example/in.png"]},
    ),
    submit("an event of a stream", http('data: {"task_id": "T"}\n\ndata: [DONE]\n\n', kind="text/event-stream")),
    submit("JSON behind a guard against scripts", http(')]}\',\n{"task_id": "T"}')),
    submit("JSON as Python prints it", http("{'task_id': \"T\", 'ok': True}")),
    submit("below prediction", {"prediction": {"id": "T", "status": "starting"}}),
    submit("below a name of its own", {"sdGenerationJob": {"generationId": "T"}}),
    submit("deep below names of its own", {"a": {"b": [{"task_id": "T"}]}}),
    held("an id below the request that is echoed", {"request": {"task_id": "T"}, "ok": True}),
    held("a word", http("OK"), "OK"),
    held("an empty 200", http(""), "(empty)"),
    held("an empty 202", http("", status=202), "HTTP 202"),
    held("an id of 600 characters", {"task_id": "9" * 600}),
    held("an id that walks", {"task_id": ".."}),
    held("the key itself as the id", {"task_id": KEY}, "holds the API key"),
    held("an id with the key in it", {"task_id": f"task-{KEY}-1"}, "holds the API key"),
    held("nothing but good news", {"success": True, "message": "submitted"}, "submitted"),
    held("a request's id", {"request_id": "r-1"}, "r-1"),
    held("an empty object", {}),
    held("a list of nothing", []),
    held("a picture that is no address", {"output_images": [{"oss_path": "a/b/c"}]}, "oss_path"),
)


@pytest.mark.parametrize("case", SUBMITS, ids=str)
def test_the_task_that_a_submit_names_is_found_or_the_item_is_held(field: Field, case: TaskCase) -> None:
    check_task_case(field, case)


POLLS = (
    poll("objects with image_url", {**DONE, "output_images": [{"image_url": "U"}]}),
    poll("outputs, a list", {"task_id": "T", "task_status": "SUCCEED", "outputs": ["U"]}),
    poll("outputs, an object", {"task_id": "T", "task_status": "SUCCEED", "outputs": {"output_images": ["U"]}}),
    poll("a list as url", {"task_id": "T", "task_status": "SUCCEED", "images": [{"url": ["U"]}]}),
    poll("raw base64", {**DONE, "output_images": [PACKED]}),
    poll("base64 in an object", {**DONE, "output_images": [{"b64_json": PACKED}]}),
    poll("a data URL", {**DONE, "output_images": [f"data:image/png;base64,{PACKED}"]}),
    poll("without a scheme", {**DONE, "output_images": ["//{host}/files/1.png"]}),
    poll("a path on the server", {**DONE, "output_images": ["/files/1.png"]}),
    poll("output.image_urls", {"status": "completed", "output": {"image_urls": ["U"]}}),
    poll("below data", {"code": 200, "data": {"task_id": "T", "task_status": "SUCCEED", "output_images": ["U"]}}),
    poll("result.images", {"code": 200, "data": {"status": "completed", "result": {"images": [{"url": ["U"]}]}}}),
    poll(
        "a wrapper's own success", {"status": "success", "data": {"status": "completed", "output": {"images": ["U"]}}}
    ),
    poll("output, an address", {"id": "T", "status": "succeeded", "output": "U"}),
    poll("output, a list", {"id": "T", "status": "succeeded", "output": ["U"]}),
    poll("result.sample", {"id": "T", "status": "Ready", "result": {"sample": "U"}}),
    poll("image_result", {"id": "T", "task_status": "SUCCESS", "image_result": [{"url": "U"}]}),
    poll("output.results", {"output": {"task_id": "T", "task_status": "SUCCEEDED", "results": [{"url": "U"}]}}),
    poll("assets.image", {"id": "T", "state": "completed", "assets": {"image": "U", "video": None}}),
    poll("generations", {"id": "T", "state": "done", "generations": [{"img": "U", "state": "ok"}]}),
    poll("outputs by node", {"id": "T", "status": "success", "outputs": {"9": {"images": [{"url": "U"}]}}}),
    poll("data, a list", {"task_id": "T", "status": "SUCCEED", "data": [{"url": "U"}]}),
    poll("one image_url", {"task_id": "T", "status": "SUCCEED", "image_url": "U"}),
    poll("url below data", {"code": 0, "data": {"task_id": "T", "status": "SUCCESS", "url": "U"}}),
    poll("a word in another case", {"task_id": "T", "status": "Finished", "images": ["U"]}),
    poll("images of objects", {"task_id": "T", "status": "COMPLETED", "images": [{"image": {"url": "U"}}]}),
    poll("camel case", {"taskId": "T", "taskStatus": "SUCCEED", "outputImages": ["U"]}),
    poll(
        "not the picture that was given",
        {"task_id": "T", "status": "SUCCEED", "input": {"image_url": "https://x.example/in.png"}, "output": ["U"]},
    ),
    poll("a list of addresses as text", {**DONE, "output_images": '["{base}/files/1.png"]'}),
    poll("Markdown", {**DONE, "output_images": ["![a boat]({base}/files/1.png)"]}),
    poll("below prediction", {"prediction": {"id": "T", "status": "succeeded", "output": ["U"]}}),
    poll("a word of an enumeration", {"task": {"task_id": "T", "status": "TASK_STATUS_SUCCEED"}, "images": ["U"]}),
    poll("success in part", {**DONE, "task_status": "PARTIAL_SUCCESS"}),
    poll("success in Chinese", {**DONE, "task_status": "成功"}),
    poll(
        "a list of tasks, this one among them",
        {"data": [{"task_id": "other", "status": "FAILED"}, {"task_id": "T", "status": "SUCCEED", "images": ["U"]}]},
    ),
    TaskCase(name="a part that succeeded is not the task", polls=[{"task_status": "UPLOAD_COMPLETED"}, DONE]),
    TaskCase(name="success that is still to come", polls=[{**DONE, "task_status": "SUCCESS_PENDING"}, DONE]),
    TaskCase(
        name="while it runs, pictures are previews",
        polls=[{**RUNNING, "images": ["https://x.example/preview.png"]}, DONE],
    ),
    TaskCase(name="pictures that come late", polls=[{**DONE, "output_images": None}] * 5 + [DONE]),
    TaskCase(name="a list that is filled late", polls=[{**DONE, "output_images": []}] * 6 + [DONE]),
    TaskCase(
        name="a list that stays empty",
        polls=[{**DONE, "output_images": []}],
        exit_status=1,
        done=0,
        failed=1,
        kind="empty_result",
    ),
    TaskCase(
        name="null for ever",
        polls=[{**DONE, "output_images": None}],
        exit_status=1,
        done=0,
        failed=1,
        kind="empty_result",
    ),
    TaskCase(
        name="nothing but SUCCEED",
        polls=[{"task_id": "T", "task_status": "SUCCEED"}],
        exit_status=1,
        done=0,
        failed=1,
        kind="empty_result",
    ),
    TaskCase(
        name="a result that nobody understands",
        polls=[{**DONE, "output_images": [{"oss_path": "bucket/key"}]}],
        exit_status=3,
        done=0,
        kind="not_understood",
        words="bucket/key",
    ),
)


@pytest.mark.parametrize("case", POLLS, ids=str)
def test_the_pictures_of_a_finished_task_are_found_or_the_item_is_not_ordered_again(
    field: Field, case: TaskCase
) -> None:
    check_task_case(field, case)


@pytest.mark.parametrize(
    "reply",
    [
        {"task_id": "T", "task_status": "SUCCEED", "output_images": ["U"]},
        {"task_id": "T", "output_images": ["U"]},
        {"data": {"task_id": "T", "status": "completed", "images": [{"url": "U"}]}},
        {"task_id": "T", "task_status": "SUCCEED", "output_images": [PACKED]},
    ],
)
def test_pictures_in_the_submits_reply_finish_the_item(field: Field, reply: Any) -> None:
    tasks = Tasks(submits=[reply], polls=[json_reply({"errors": {"message": "task not found"}}, status=404)])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, tasks.polled) == (0, 1, {})
    assert ran.rows[0]["task_id"] == "t1"


def test_pictures_of_a_submit_that_cannot_be_fetched_are_not_ordered_again(field: Field) -> None:
    gone = json_reply({"errors": {"message": "task not found"}}, status=404)
    tasks = Tasks(submits=[DONE], polls=[gone], file=http(b"no", status=500))
    for _ in range(2):
        ran = field.run(tasks, image_job())
        assert ran.exit_status == 3
    assert tasks.orders == 1


def test_a_held_item_shows_the_reply_and_is_sent_again_only_when_a_person_wants_it(field: Field) -> None:
    tasks = Tasks(submits=[{"success": True, "message": "queued as lot 7"}, ACCEPTED])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, ran.report.status.items.held) == (3, 1, 1)
    (group,) = ran.report.status.held
    assert (group.kind, group.count) == ("not_understood", 1)
    assert "queued as lot 7" in group.message
    again = field.run(tasks, image_job())
    assert (again.exit_status, tasks.orders, again.report.status.items.held) == (3, 1, 1)
    assert "queued as lot 7" in again.report.status.held[0].message
    last = field.run(tasks, image_job(), resend_held=True)
    assert (last.exit_status, tasks.orders, len(last.rows)) == (0, 2, 1)
    assert last.report.status.items.held == 0


def test_replies_that_nobody_understands_stop_the_orders_soon(field: Field) -> None:
    tasks = Tasks(submits=[{"success": True}])
    ran = field.run(tasks, image_job(items=20, limits={"concurrency": 1}))
    assert (ran.exit_status, ran.report.status.items.held) == (3, 3)
    assert tasks.orders == 3
    assert "unrecognized replies" in (ran.report.status.message or "")


@pytest.mark.parametrize(
    "other",
    [
        {"task_id": "T999", "task_status": "SUCCEED", "output_images": ["{base}/files/other.png"]},
        {"data": {"task_id": "T999", "task_status": "SUCCEED", "output_images": ["{base}/files/other.png"]}},
        {"id": "T999", "status": "completed", "output": ["{base}/files/other.png"]},
        {"taskId": "T999", "status": "FAILED", "message": "NSFW"},
        {"task_id": 999, "task_status": "FAILED", "errors": {"message": "invalid size"}},
    ],
)
def test_a_reply_that_is_about_another_task_is_trouble_of_that_poll_only(field: Field, other: Any) -> None:
    tasks = Tasks(polls=[other, other, DONE])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, tasks.polled) == (0, 1, {1: 3})
    assert all(asked.path != "/files/other.png" for asked in ran.asked)


@pytest.mark.parametrize(
    "own",
    [
        {"id": "log-7", "task_id": "T", "status": "completed", "images": ["U"]},
        {"id": "row-1", "data": {"task_id": "T", "task_status": "SUCCEED", "output_images": ["U"]}},
        {"task_id": "", "task_status": "SUCCEED", "output_images": ["U"]},
        {"task_status": "SUCCEED", "output_images": ["U"], "request_id": "another"},
        {"task_id": "T1", "task_status": "SUCCEED", "output_images": ["U"]},
        {"result": {"data": [{"url": "U"}]}, "status": "succeeded", "id": "T"},
    ],
)
def test_ids_of_other_things_make_no_reply_another_tasks(field: Field, own: Any) -> None:
    tasks = Tasks(polls=[own])
    assert field.run(tasks, image_job()).exit_status == 0
    assert tasks.polled == {1: 1}


@pytest.mark.parametrize(
    "reply",
    [{"task_ids": ["T", "t8", "t9"]}, {"data": {"tasks": [{"id": "T"}, {"id": "t8"}, {"id": "t9"}]}}],
)
def test_further_tasks_of_an_order_are_reported_and_stand_in_ledger_and_row(field: Field, reply: Any) -> None:
    ran = field.run(Tasks(submits=[reply]), image_job())
    (row,) = ran.rows
    assert (row["task_id"], row["output"]["flags"]) == ("t1", ["more_tasks"])
    assert row["output"]["other_tasks"] == ["t8", "t9"]
    assert [event["others"] for event in ran.events("accepted")] == [["t8", "t9"]]
    assert any("t8, t9" in said for said in ran.said)


def test_an_order_that_made_more_tasks_than_a_record_holds_is_kept(field: Field) -> None:
    ran = field.run(Tasks(submits=[{"tasks": [{"id": "T"}, *({"id": f"{n:0500}"} for n in range(200))]}]), image_job())
    assert (ran.exit_status, len(ran.rows)) == (0, 1)
    assert any("180 more" in said for said in ran.said)


def test_a_run_of_pictures_writes_what_earlier_programs_refuse_to_read(field: Field) -> None:
    """They know no `held`, and would pay for such an item again."""
    ran = field.run(Tasks(submits=[{"success": True}]), image_job())
    assert [event["version"] for event in ran.events("open")] == [2]


def test_two_items_with_one_task_id_are_reported(field: Field) -> None:
    tasks = Tasks(submits=[{"task_id": "same-1"}])
    ran = field.run(tasks, image_job(items=2, limits={"concurrency": 1}))
    assert (ran.exit_status, tasks.orders, len(ran.rows)) == (0, 2, 2)
    flags = [row["output"].get("flags", []) for row in ran.rows]
    assert sorted(map(tuple, flags)) == [(), ("shared_task",)]
    assert any("same-1" in said for said in ran.said)


@pytest.mark.parametrize(
    ("params", "pictures", "flags"),
    [({"n": 2}, 1, ["fewer_pictures"]), ({"n": 2}, 2, []), ({}, 1, []), ({"num_images": 3}, 2, ["fewer_pictures"])],
)
def test_fewer_pictures_than_were_asked_for_are_reported(
    field: Field, params: dict[str, Any], pictures: int, flags: list[str]
) -> None:
    tasks = Tasks(polls=[{**DONE, "output_images": [f"{{base}}/files/{number}.png" for number in range(pictures)]}])
    ran = field.run(tasks, image_job(params={"size": "64x64", **params}))
    assert (ran.exit_status, ran.rows[0]["output"].get("flags", [])) == (0, flags)
    assert len(ran.rows[0]["output"]["images"]) == pictures


NGINX = http("<html><head><title>404 Not Found</title></head><body>nginx</body></html>", status=404, kind="text/html")
PLAIN = http("404 page not found", status=404, kind="text/plain")
ROUTE = json_reply({"message": "no Route matched with those values"}, status=404)
SPRING = json_reply({"status": 404, "error": "Not Found", "path": "/v1/tasks/t1"}, status=404)
EMPTY = http(b"", status=404, kind=None)
GONE = json_reply({"errors": {"message": "task not found"}}, status=404)
DETAIL = json_reply({"detail": "Not Found"}, status=404)


@pytest.mark.parametrize(
    "reply", [NGINX, PLAIN, ROUTE, SPRING, EMPTY], ids=["nginx", "text", "kong", "spring", "empty"]
)
def test_a_gateways_404_ends_no_task(field: Field, reply: bytes) -> None:
    tasks = Tasks(at=lambda asked, _: RUNNING if asked.at_s < 6.0 else reply if asked.at_s < 56.0 else None)
    ran = field.run(tasks, image_job(items=3))
    assert (ran.exit_status, tasks.orders, len(ran.rows)) == (0, 3, 3), ran.report


@pytest.mark.parametrize("reply", [GONE, DETAIL])
def test_a_task_that_was_seen_running_is_given_longer_before_it_counts_as_gone(field: Field, reply: bytes) -> None:
    tasks = Tasks(at=lambda asked, _: RUNNING if asked.at_s < 6.0 else reply if asked.at_s < 50.0 else None)
    ran = field.run(tasks, image_job(items=3))
    assert (ran.exit_status, tasks.orders, len(ran.rows)) == (0, 3, 3), ran.report


def test_a_task_that_the_api_does_not_know_is_ordered_again_and_reported(field: Field) -> None:
    tasks = Tasks(by_order={1: [GONE]})
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders) == (0, 2)
    assert ran.rows[0]["ambiguous"] == 1


def test_a_task_under_an_id_that_may_be_none_is_held_when_nobody_knows_it(field: Field) -> None:
    tasks = Tasks(submits=[{"id": "T"}], polls=[GONE])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, ran.report.status.items.held) == (3, 1, 1)


REFUSED = json_reply({"error": {"message": "Authentication failed, please check your token."}}, status=401)


def test_polls_that_are_refused_for_ever_are_named_and_no_more_is_ordered(field: Field) -> None:
    tasks = Tasks(polls=[REFUSED])
    limits = {"concurrency": 2, "in_flight_tasks": 2}
    ran = field.run(tasks, image_job(items=6, limits=limits, timeouts={"task_s": 120}))
    assert (ran.exit_status, tasks.orders, ran.failures) == (5, 2, [])
    assert "Authentication failed" in (ran.report.status.message or "")


def test_polls_that_are_refused_are_named_when_nothing_is_left_to_order(field: Field) -> None:
    tasks = Tasks(polls=[RUNNING, REFUSED])
    ran = field.run(tasks, image_job(items=2, timeouts={"task_s": 120}))
    assert (ran.exit_status, tasks.orders) == (3, 2)
    assert "Authentication failed" in (ran.report.status.message or "")


@pytest.mark.parametrize("reply", [json_reply({"error": "forbidden for you"}, status=403), NGINX])
def test_the_last_word_about_late_tasks_is_reported(field: Field, reply: bytes) -> None:
    tasks = Tasks(polls=[reply])
    ran = field.run(tasks, image_job(timeouts={"task_s": 60}))
    assert (ran.exit_status, tasks.orders) == (3, 1)
    assert "404" in (ran.report.status.message or "") or "forbidden for you" in (ran.report.status.message or "")


def test_a_refusal_with_a_status_of_its_own_is_none_although_it_names_an_id(field: Field) -> None:
    refusal = json_reply({"errors": {"message": "invalid size"}, "task_id": "T"}, status=400)
    tasks = Tasks(submits=[refusal])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, tasks.polled) == (1, 1, {})
    assert ran.failures[0]["error"]["class"] == "bad_request"


def test_a_body_cut_within_the_id_is_no_task(field: Field) -> None:
    cut = Reply(data=http('{"task_id": "t', length=60), then="close")
    tasks = Tasks(submits=[cut, ACCEPTED])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders) == (0, 2)
    assert ran.rows[0]["ambiguous"] == 1


def test_an_id_that_came_before_the_connection_broke_is_kept(field: Field) -> None:
    cut = Reply(data=http('{"task_id": "t1", "task_st', length=60), then="close")
    tasks = Tasks(submits=[cut])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders) == (0, 1)


@pytest.mark.parametrize("missing", [1, 50, 5000])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_picture_that_is_whole_by_its_own_end_mark_is_kept_after_a_second_try(
    field: Field, missing: int, then: Any
) -> None:
    short = Reply(data=http(PNG, kind="image/png", length=len(PNG) + missing), then=then)
    tasks = Tasks(file=short)
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders) == (0, 1), ran.report
    assert sum(asked.path.startswith("/files/") for asked in ran.asked) == 2
    assert (ran.out / ran.output()["images"][0]["path"]).read_bytes()[-8:] == PNG[-8:]


def test_a_picture_that_is_whole_although_its_server_never_ends_is_kept(field: Field) -> None:
    tasks = Tasks(file=Reply(data=http(PNG, kind="image/png", length=len(PNG) + 50), then="hang"))
    ran = field.run(tasks, image_job(timeouts={"download_s": 8}))
    assert (ran.exit_status, tasks.orders) == (0, 1), ran.report


def test_half_a_picture_is_never_kept(field: Field) -> None:
    half = Reply(data=http(PNG[: len(PNG) // 2], kind="image/png", length=len(PNG)), then="close")
    tasks = Tasks(file=half)
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders, ran.rows) == (3, 1, [])


@pytest.mark.parametrize("where", ["submit", "poll"])
def test_pictures_at_addresses_and_in_the_reply_itself_are_all_kept(field: Field, where: str) -> None:
    both = {**DONE, "output_images": ["U", PACKED]}
    tasks = Tasks(submits=[both]) if where == "submit" else Tasks(polls=[both])
    ran = field.run(tasks, image_job())
    assert (ran.exit_status, tasks.orders) == (0, 1)
    assert len(ran.output()["images"]) == 2


def test_pictures_beside_a_word_that_nobody_knows_are_kept_in_the_end(field: Field) -> None:
    """The word stays unknown: what stood in every reply is kept when the time for the task is over, and said."""
    ran, tasks = check_task_case(field, TaskCase(name="fertig", polls=[{**DONE, "task_status": "fertig"}]))
    assert (tasks.orders, ran.rows[0]["output"]["flags"]) == (1, ["unknown_state"])
    assert any("'fertig'" in line and "t1" in line for line in ran.said)


def test_a_password_in_the_address_of_a_picture_is_not_shown(field: Field) -> None:
    address = "http://user:canary-word@{host}/files/1.png"
    ran = field.run(Tasks(polls=[{**DONE, "output_images": [address]}]), image_job())
    said = " ".join([*ran.said, ran.report.status.message or ""])
    assert "user name or password" in said
    assert "canary-word" not in said

"""The official OpenAI SDK and our decoder read the same bytes of image generations, refusals and streams too."""

import base64
from dataclasses import dataclass
from io import BytesIO

import httpx2
import openai
import pytest
from openai.types import ImagesResponse
from PIL import Image

from batchrunner.core.job import Json
from batchrunner.core.outcome import PictureBytes, Pictures, PictureUrl, Problem, ProblemKind, Revision
from batchrunner.providers.openai_images import OpenAiImages
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.world import World
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.recorder import patience_s, with_world

K = ProblemKind

GROUPS = frozenset({"refusal", "mishap", "picture"})
NAMES = [name for name, scenario in SCENARIOS.items() if scenario.group in GROUPS]
PROMPT = "A blue cat, 猫"
DIALECT = OpenAiImages(provider("simulator", "openai-images"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The pictures of a reply: base64 or URLs, and (input, output) tokens."""

    pictures: tuple[str, ...]
    tokens: tuple[int | None, int | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What one exchange came to."""

    sdk: Made | Exception
    ours: Pictures | Problem


def read_by_both(model: str, **params: Json) -> Sides:
    """One call, read by both. The request is ours; the SDK passes its parameters on."""
    asked = item(PROMPT, model=model, params={"size": "64x64", **params})

    async def use(url: str, http: httpx2.AsyncClient) -> Made | Exception:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0, timeout=patience_s(model)
        )
        try:
            return made_in(await client.images.generate(model=model, prompt=PROMPT, extra_body=asked.params))
        except Exception as fault:  # noqa: BLE001 - what the SDK dies of is what this asks
            return fault

    sdk, replies = with_world(World(), use)
    ours = replies[0].read_with(DIALECT.decoder(asked))
    assert isinstance(ours, Pictures | Problem)
    return Sides(sdk=sdk, ours=ours)


def made_in(response: ImagesResponse) -> Made:
    """What the SDK says."""
    used = response.usage
    return Made(
        pictures=tuple(picture.b64_json or picture.url or "" for picture in response.data or ()),
        tokens=(used.input_tokens, used.output_tokens) if used else None,
    )


def made_by_us(pictures: Pictures) -> Made:
    """What we say, written as the SDK does."""
    used = pictures.usage
    return Made(
        pictures=tuple(_written(ref) for ref in pictures.refs),
        tokens=(used.input_tokens, used.output_tokens) if used else None,
    )


def _written(ref: PictureUrl | PictureBytes) -> str:
    match ref:
        case PictureUrl(url=url):
            return url
        case PictureBytes(data=data):
            return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("gpt-image-2", {}),
        ("gpt-image-2", {"n": 3, "output_format": "webp", "quality": "high"}),
        ("dall-e-3", {}),
        ("dall-e-2", {"n": 2}),
        ("dall-e-2", {"response_format": "b64_json"}),
        ("Kolors/Kolors#oi-ok", {"n": 2}),
    ],
)
def test_both_get_the_same_pictures(model: str, params: dict[str, Json]) -> None:
    sides = read_by_both(model, **params)
    assert isinstance(sides.ours, Pictures)
    assert made_by_us(sides.ours) == sides.sdk
    assert len(sides.ours.refs) == params.get("n", 1)


def test_the_pictures_are_pictures() -> None:
    sides = read_by_both("gpt-image-2")
    assert isinstance(sides.ours, Pictures)
    (picture,) = sides.ours.refs
    assert isinstance(picture, PictureBytes)
    assert Image.open(BytesIO(picture.data)).size == (64, 64)


def test_a_picture_by_url_lies_on_the_storage_host() -> None:
    async def use(url: str, http: httpx2.AsyncClient) -> tuple[int, bytes]:
        request = DIALECT.encode(item(PROMPT, model="dall-e-3"), Revision())
        said = await http.post(f"{url}/v1/images/generations", content=request.body or b"")
        picture = await http.get(said.json()["data"][0]["url"])
        return picture.status_code, picture.content

    (status, picture), _ = with_world(World(), use)
    assert status == 200
    assert Image.open(BytesIO(picture)).format == "PNG"


KINDS: dict[type[Exception], frozenset[ProblemKind]] = {
    openai.RateLimitError: frozenset({K.THROTTLE, K.QUOTA_MODEL, K.QUOTA_ACCOUNT, K.MODEL_SUSPENDED}),
    openai.AuthenticationError: frozenset({K.AUTH}),
    openai.PermissionDeniedError: frozenset({K.FORBIDDEN_MODEL, K.NOT_REACHED, K.CONTENT_FILTER, K.BILLING}),
    openai.NotFoundError: frozenset({K.NOT_REACHED}),
    openai.BadRequestError: frozenset(
        {K.BAD_REQUEST, K.CONTENT_FILTER, K.ADAPTABLE, K.MODEL_NOT_FOUND, K.SERVER_ERROR}
    ),
    openai.APIStatusError: frozenset({K.NOT_REACHED, K.SERVER_ERROR}),
    openai.InternalServerError: frozenset({K.SERVER_ERROR, K.OVERLOADED}),
    openai.APITimeoutError: frozenset({K.TIMEOUT}),
    openai.APIConnectionError: frozenset({K.RESET, K.STREAM_CUT}),
    AttributeError: frozenset({K.NOT_REACHED}),
}
"""What the SDK raises, and what it may be to us: the SDK knows statuses, we read what was said."""

EXACT: dict[str, ProblemKind] = {
    "cloudflare-522": K.OVERLOADED,
    "estimated-time": K.OVERLOADED,
    "wait-in-prose": K.THROTTLE,
    "page-403": K.NOT_REACHED,
    "page-200": K.NOT_REACHED,
    "login": K.NOT_REACHED,
    "no-route": K.NOT_REACHED,
    "moderated-403": K.CONTENT_FILTER,
    "unpaid-403": K.BILLING,
    "odd-499": K.SERVER_ERROR,
    "tool-use-failed": K.SERVER_ERROR,
    "unknown-model-400": K.MODEL_NOT_FOUND,
}
"""What a refusal is to us, where its status alone would say something else."""

CALLED_WHOLE: dict[str, tuple[ProblemKind, str]] = {
    "oi-empty": (K.NOT_UNDERSTOOD, "the SDK gives a response without data"),
    "error-in-200": (K.THROTTLE, "the SDK gives a response without data"),
    "oi-part-failed": (K.CONTENT_FILTER, "the SDK gives a picture that has neither base64 nor a URL"),
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CALLED_WHOLE])
def test_whatever_befalls_a_call_both_see_it(name: str) -> None:
    sides = read_by_both(f"gpt-image-2#{name}")
    match sides.ours:
        case Pictures():
            assert made_by_us(sides.ours) == sides.sdk
        case Problem(kind=kind):
            assert isinstance(sides.sdk, Exception)
            assert kind in KINDS[type(sides.sdk)]
            assert kind is EXACT.get(name, kind)


@pytest.mark.parametrize("name", CALLED_WHOLE)
def test_what_the_sdk_calls_whole_and_is_not_is_a_problem_to_us(name: str) -> None:
    sides = read_by_both(f"gpt-image-2#{name}")
    assert isinstance(sides.sdk, Made)
    assert isinstance(sides.ours, Problem)
    assert sides.ours.kind is CALLED_WHOLE[name][0]


def test_a_group_that_failed_in_part_keeps_what_was_made() -> None:
    sides = read_by_both("gpt-image-2#oi-part-failed", n=3)
    assert isinstance(sides.ours, Pictures)
    assert isinstance(sides.sdk, Made)
    assert (len(sides.ours.refs), sides.ours.flags) == (2, ("pictures_missing",))
    assert made_by_us(sides.ours).pictures == sides.sdk.pictures[:2]


BAD: list[tuple[str, dict[str, Json]]] = [
    ("gpt-image-2", {"response_format": "url"}),
    ("dall-e-3", {"n": 2}),
    ("gpt-image-2", {"n": 11}),
    ("gpt-image-2", {"size": "huge"}),
    ("gpt-image-2", {"output_format": "gif"}),
]


@pytest.mark.parametrize(("model", "params"), BAD)
def test_what_the_server_does_not_take_is_a_bad_request(model: str, params: dict[str, Json]) -> None:
    sides = read_by_both(model, **params)
    assert isinstance(sides.sdk, openai.BadRequestError)
    assert isinstance(sides.ours, Problem)
    assert (sides.ours.kind, sides.ours.code) == (K.BAD_REQUEST, sides.sdk.code)


def test_of_a_stream_both_get_the_finished_picture() -> None:
    async def use(url: str, http: httpx2.AsyncClient) -> str:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        stream = await client.images.generate(
            model="gpt-image-2", prompt=PROMPT, stream=True, partial_images=2, extra_body={"size": "64x64"}
        )
        finished = [event.b64_json async for event in stream if event.type == "image_generation.completed"]
        return finished[-1]

    finished, replies = with_world(World(), use)
    ours = replies[0].read_with(DIALECT.decoder(item(PROMPT, model="gpt-image-2")))
    assert isinstance(ours, Pictures)
    assert made_by_us(ours).pictures == (finished,)

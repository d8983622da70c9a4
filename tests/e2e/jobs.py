"""The two jobs that the tests of kills, signals and sizes run against the HTTP simulator."""

from pathlib import Path

from tests.e2e.judging import CHAT_MODEL, IMAGE_MODEL, IMAGE_SIZE
from tests.e2e.runs import KEY_NAME

CHAT_FAULTS = "throttle=0.02,5xx=0.02,reset=0.02,cut=0.01,shell=0.01,retry_after=0.2"
IMAGE_FAULTS = f"{CHAT_FAULTS},task-fail=0.02,task-slow=0.02,poll-5xx=0.02,dl-truncated=0.02,dl-404=0.01"


def chat_job(folder: Path, base_url: str, *, prompts: str = "prompts.jsonl", name: str = "answers.yaml") -> Path:
    """Write the job of `prompts`, 64 at once, into `outputs/answers`."""
    path = folder / name
    path.write_text(f"""
name: answers
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
model: {CHAT_MODEL}
prompts: {{file: {prompts}, id: "q{{{{ n }}}}"}}
limits: {{concurrency: 64}}
retry: {{attempts: 12}}
""")
    return path


def image_job(folder: Path, base_url: str, *, in_flight: int) -> Path:
    """Write the job of `prompts.jsonl`, so many tasks at once, into `outputs/pictures`."""
    path = folder / "pictures.yaml"
    width, height = IMAGE_SIZE
    path.write_text(f"""
provider: {{preset: modelscope, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
kind: image
model: {IMAGE_MODEL}
prompts: {{file: prompts.jsonl, id: "p{{{{ n }}}}"}}
params: {{size: {width}x{height}}}
limits: {{concurrency: 64, in_flight_tasks: {in_flight}, poll_per_second: 400}}
retry: {{attempts: 12}}
""")
    return path


def intact_job(folder: Path, base_url: str, *, sounds: int) -> Path:
    """Write so many sounds, all different, and the job that transcribes them into `outputs/words`."""
    path = folder / "words.yaml"
    (folder / "sounds").mkdir()
    for number in range(sounds):
        (folder / "sounds" / f"{number}.mp3").write_bytes(b"ID3 sound %d" % number)
    path.write_text(f"""
name: words
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
kind: transcription
model: whisper-1
prompts: {{file: sounds, id: "{{{{ name }}}}"}}
limits: {{concurrency: 8}}
retry: {{attempts: 12}}
""")
    return path


def vector_job(folder: Path, base_url: str, *, together: int) -> Path:
    """Write the job of `prompts.jsonl`, so many texts a request, into `outputs/vectors`."""
    path = folder / "vectors.yaml"
    path.write_text(f"""
name: vectors
provider: {{preset: openai, base_url: "{base_url}", api_key_env: {KEY_NAME}}}
kind: embedding
model: sim-vectors
prompts: {{file: prompts.jsonl, id: "v{{{{ n }}}}"}}
params: {{dimensions: 16}}
limits: {{concurrency: 4, inputs_per_request: {together}}}
retry: {{attempts: 12}}
""")
    return path

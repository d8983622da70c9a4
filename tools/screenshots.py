"""`python -m tools.screenshots`: pictures of each view of the page in docs/images/, from two runs on the simulator.

On a desktop, dark, and on a phone. WebP, so that all of them together stay small.
"""

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

import batchrunner
from tools.browser import PHONE, opened, started, why_not

IMAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
DESKTOP: Final = (1280, 800)
SHAPES: Final = (("", DESKTOP, False), ("-dark", DESKTOP, True), ("-phone", PHONE, False))
"""(ending of the name, size, whether it is dark)."""
QUALITY: Final = 72

_SUBJECTS: Final = (
    "why bread rises",
    "how a zip fastener holds",
    "what makes the tides",
    "how a lock on a canal works",
    "why leaves turn red",
    "how a pendulum clock keeps time",
    "what a fuse is for",
    "why the sky is blue",
    "how bees find their way",
    "what holds a bridge up",
    "how glass is made",
    "why metal feels cold",
)
_MANNERS: Final = ("in three sentences", "with an example", "as a story", "for an engineer")
CHAT: Final = """
name: explanations
provider: simulator
models: [sim/large, "sim/medium#throttle:5", "sim/small#moderated-403:2"]
system: Explain what you are asked for, and nothing else.
prompts: {file: prompts.txt}
limits: {requests_per_minute: 600}
params: {max_tokens: 200}
"""
PICTURES: Final = """
name: posters
provider: simulator
kind: image
model: sim/painter
prompts: {file: prompts.txt, template: "A poster that shows {{ line }}"}
matrix: {seed: [1, 2, 3, 4]}
params: {size: 512x512}
"""
VIEWS: Final = {
    "results": ("chat", "#results"),
    "item": ("chat", "#results?item=4"),
    "compare": ("chat", "#compare"),
    "run": ("chat", "#run"),
    "failures": ("chat", "#failures"),
    "gallery": ("pictures", "#results"),
    "picture": ("pictures", "#results?item=6"),
    "difference": ("pictures", "#compare"),
}


def main() -> int:
    """Make all of them; 0, also where there is no browser, which is said."""
    if reason := why_not():
        sys.stderr.write(f"no screenshots: {reason}\n")
        return 0
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        questions = [f"{subject}, {manner}" for subject in _SUBJECTS for manner in _MANNERS]
        pages = {
            "chat": _page(Path(place) / "chat", CHAT, questions),
            "pictures": _page(Path(place) / "pictures", PICTURES, _SUBJECTS),
        }
        with started() as browser:
            for name, (run, address) in VIEWS.items():
                for ending, size, dark in SHAPES:
                    with opened(browser, pages[run], address, size=size, dark=dark) as seen:
                        seen.page.wait_for_timeout(400)  # pictures are decoded
                        _keep(seen.page.screenshot(), IMAGES / f"{name}{ending}.webp")
    return 0


def _page(folder: Path, job: str, prompts: Sequence[str]) -> Path:
    folder.mkdir(parents=True)
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n", "utf-8")
    (folder / "job.yaml").write_text(job, "utf-8")
    ended = batchrunner.run_sync(batchrunner.load_job(str(folder / "job.yaml")))
    return Path(ended.status.dir or "") / "report.html"


def _keep(png: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    sys.exit(main())

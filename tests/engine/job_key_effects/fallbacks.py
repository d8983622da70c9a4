"""Keys of models that are asked one after another: each with a job, a change, and what is seen without and with it."""

from tests.engine.job_key_effects.bench import Bench, Effect, Tree, chat


def answered(bench: Bench) -> list[tuple[str, str | None]]:
    """Which model answered each prompt, and in place of which item."""
    return [(row["model"].partition("#")[0], row.get("fallback_of")) for row in bench.rows]


def job(first: str = "m/One#content-filter", **more: object) -> Tree:
    """One prompt for two models, one after another."""
    tree = chat({"prompt": "one", "id": "p"}, models={"first": first, "then": "m/Two", **more})
    del tree["model"]
    return tree


FALLBACKS: dict[str, Effect] = {
    "models.first": Effect(
        base=job(), change={"models.first": "m/One"}, look=answered, was=[("m/Two", "p")], now=[("m/One", None)]
    ),
    "models.then": Effect(
        base=job(),
        change={"models.then": ["m/Two#content-filter", "m/Three"]},
        look=answered,
        was=[("m/Two", "p")],
        now=[("m/Three", "p")],
    ),
    "models.on": Effect(base=job(), change={"models.on": ["quota"]}, look=answered, was=[("m/Two", "p")], now=[]),
    "models.after": Effect(
        base=job(first="m/One#quota-model:0"),
        change={"models.after": "2h"},
        look=lambda bench: (answered(bench), bench.seconds >= 7200.0),
        was=([("m/Two", "p")], False),
        now=([("m/Two", "p")], True),
    ),
}

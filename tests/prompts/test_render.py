"""Templates: strict, sandboxed, the same every time, and bounded in what they may grow to."""

import tracemalloc
from collections.abc import Mapping

import pytest

from batchrunner.core.job import Json
from batchrunner.prompts.render import OUTPUT_LIMIT_CHARS, Template, TemplateFault, Templates
from tests.support.growth import calls_within

VALUES: dict[str, Json] = {"name": "cat", "list": ["a", "b"], "map": {"k": "v"}, "null": None, "big": "x" * 1_000_000}


def render(text: str, values: Mapping[str, Json] = VALUES) -> str:
    return Templates().strict(text).render(values)


def fault(text: str) -> TemplateFault:
    with pytest.raises(TemplateFault) as caught:
        render(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A {{ name }}", "A cat"),
        ("plain text, 100 %", "plain text, 100 %"),
        ("{% if name %}yes{% endif %}", "yes"),
        (
            "{% for a in list %}{{ loop.index }}/{{ loop.length }}{{ a }}{% if loop.first %},{% endif %}{% endfor %}",
            "1/2a,2/2b",
        ),
        ("{% for k, v in map.items() %}{{ k }}={{ v }}{% endfor %}", "k=v"),
        ("{% for a in list if a == 'b' %}{{ a }}{% else %}none{% endfor %}", "b"),
        ("{% for a in [] %}{{ a }}{% else %}none{% endfor %}", "none"),
        ("{% set n = name ~ '-' ~ 7 %}{{ n }}", "cat-7"),
        ("{{ name | upper | replace('C', 'R') }}", "RAT"),
        ("{{ list | join(', ') }}", "a, b"),
        ("{{ name.replace('c', 'r') }} {{ '-'.join(list) }} {{ name.upper() }}", "rat a-b CAT"),
        ("{{ 'ab' * 3 }}{{ 2 * 3 + 1 }}{{ 7 % 4 }}", "ababab73"),
        ("{{ '%s:%03d' % (name, 7) }} {{ '%s' | format(name) }}", "cat:007 cat"),
        ("{{ '100%% of %(k)s in 2024' % map }}", "100% of v in 2024"),
        ("{{ other | default('none') }}", "none"),
        ("{{ map | tojson }} {{ '<&>' }} {{ '<&>' | tojson }}", '{"k": "v"} <&> "<&>"'),
        ("{{ range(3) | list | length }}", "3"),
        ("{% if null is none %}nothing{% endif %}", "nothing"),
    ],
)
def test_what_prompts_need_works(text: str, expected: str) -> None:
    assert render(text) == expected


def test_row_values_are_never_compiled() -> None:
    assert render("{{ name }}", {"name": "{{ 7 * 7 }}{% for %}"}) == "{{ 7 * 7 }}{% for %}"


def test_an_unknown_name_is_reported() -> None:
    assert fault("{{ nmae }}").unknown == "nmae"
    assert fault("{{ map.missing }}").unknown is None
    assert fault("{{ nmae | default('') }}{{ map.missing }}").unknown is None


def test_a_null_is_a_mistake_and_for_optional_things_nothing() -> None:
    assert "null" in fault("{{ null }}").problem
    assert Templates().lenient("{{ null }}").render(VALUES) == ""


def test_names_are_those_that_rows_have_to_bring() -> None:
    names = Templates().strict("{% set own = a %}{% for b in list %}{{ b ~ own }}{% endfor %}{{ range(c) }}").names
    assert names == {"a", "list", "c"}


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x' * 100000000 }}",
        "{{ 100000000 * 'x' }}",
        "{{ big * 5 }}",
        "{{ [name] * 100000000 }}",
        "{{ (list,) * 100000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 2 ** 100000000 }}",
        "{% set n = 10 %}" + "{% set n = n * n %}" * 40 + "{{ n }}",
        "{% set t = 'xxxxxxxx' %}" + "{% set t = t ~ t %}" * 40 + "{{ t }}",
        "{% set t = 'xxxxxxxx' %}" + "{% set t = t + t %}" * 40 + "{{ t }}",
        "{% set t = 'xxxxxxxx' %}" + "{% set t = t | replace('x', t) %}" * 12 + "{{ t }}",
        "{% set t = [1, 2] %}" + "{% set t = t + t %}" * 40 + "{{ t }}",
        "{{ range(1000000000) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(t='x') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
        "{% for a in range(99999) %}{{ big }}{% endfor %}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '7'.zfill(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%%%1000000000d' % 1 }}",
        "{{ '%(k)1000000000s' % map }}",
        "{{ '%((k))1000000000s' % {'(k)': 1} }}",
        "{{ '%(k)1000000000s' | format(k=1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ list | map('center', 1000000000) | list }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ [1] | batch(1000000000, big) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ big.join(list * 9) }}",
        "{{ [big, big, big, big, big] | join }}",
        "{{ list | join(big * 4 ~ big) }}",
        "{{ big.replace('x', 'xxxxxxxxxx') }}",
        "{{ (7).to_bytes(1000000000, 'big') }}",
        "{{ 3.5 | round(1000000000, 'ceil') }}",
        "{{ lipsum(1000000) }}",
        "{{ list | random }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set t %}{{ big }}{% endset %}",
        "{% filter upper %}x{% endfilter %}",
        "{% for a in list recursive %}{{ loop(list) }}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import path %}",
        "{% extends 'base' %}",
        "{% block x %}{% endblock %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__class__ }}",
        "{{ name | attr('__class__') }}",
        "{{ range.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ list.append('c') }}",
        "{{ map.update({'x': 1}) }}",
        "{{ 1 / 0 }}",
        "{{ name + 1 }}",
        "{{ name",
        "{% nonsense %}",
        "{{ name | nonsense }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    ],
)
def test_hostile_templates_are_refused_before_they_cost_anything(text: str) -> None:
    tracemalloc.start()
    try:
        with calls_within(300_000):
            fault(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60_000_000


def test_the_cap_lets_through_what_is_just_as_long() -> None:
    half = "x" * (OUTPUT_LIMIT_CHARS // 2)
    assert len(render("{{ a }}{{ a }}", {"a": half})) == OUTPUT_LIMIT_CHARS
    with pytest.raises(TemplateFault, match="longer than"):
        render("{{ a }}{{ a }}!", {"a": half})


def test_the_steps_are_counted_for_each_rendering_anew() -> None:
    template: Template = Templates().strict("{% for a in range(60000) %}{% endfor %}x")
    assert [template.render({}) for _ in range(3)] == ["x"] * 3


def test_a_syntax_error_has_its_line() -> None:
    with pytest.raises(TemplateFault) as caught:
        Templates().strict("one\n{{ two }}\n{{ three")
    assert caught.value.line == 3

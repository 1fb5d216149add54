import re

import pytest

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.construct import construct_unit
from instructrec_jax.instructions.document import Context, Draft
from instructrec_jax.instructions.sources import SOURCES
from instructrec_jax.instructions.tasks import TASKS
from instructrec_jax.instructions.templates import (
    FOLDER,
    STYLES,
    choose_template,
    held_out_templates,
    load_templates,
)

# Units that together give drafts of every task.
UNITS = {
    "python_code": [("textwrap.py",), ("heapq.py",), ("calendar.py",), ("colorsys.py",)],
    "python_topics": [("assert",), ("calls",), ("integers",), ("with",)],
    "locale_names": [("territories", "100"), ("date", "0"), ("date_and_time", "0"),
                     ("measure", "0"), ("amount", "0"), ("relative_time", "0"), ("list", "0")],
}  # fmt: skip


@pytest.fixture(scope="module")
def real_drafts(sandbox, recipe):
    """{task: [drafts]} of the real generators on real documents."""
    units = UNITS | {"package_metadata": SOURCES["package_metadata"].units(())[:25]}
    context = Context(seed=0, sandbox=sandbox)
    found = {task: [] for task in TASKS}
    for source, chosen in units.items():
        for unit in chosen:
            for item in construct_unit(source, unit, recipe=recipe(), context=context):
                for candidate in item.candidates:
                    if not candidate.reason:
                        found[candidate.task].append(candidate.draft)
    return found


def test_every_task_has_a_bank_in_several_styles_and_no_bank_is_an_orphan():
    assert {path.stem for path in FOLDER.iterdir()} == set(TASKS)
    for task in TASKS:
        templates = load_templates(task)
        assert len(templates) >= 8
        assert len({template.text for template in templates}) == len(templates)
        styles = {template.style for template in templates}
        assert {"imperative", "question", "terse", "polite", "search"} <= styles


@pytest.mark.parametrize("task", TASKS)
def test_every_template_renders_with_the_generators_fields(real_drafts, task):
    drafts = real_drafts[task]
    assert drafts
    for template in load_templates(task):
        for draft in drafts[:20]:
            instruction, text = template.render(draft)
            assert instruction.strip() == instruction != ""
            assert "{{" not in instruction and "{%" not in instruction
            # The material is there exactly once.
            assert text == ("" if "input" in template.fields else draft.input)
            if "input" in template.fields:
                assert draft.input.strip() in instruction


@pytest.mark.parametrize("task", TASKS)
def test_no_template_leaks_the_target(real_drafts, task):
    # Closed choices stand in the instruction by design, a target of one sign may be a number, and
    # what the input holds is no secret.
    drafts = [
        draft
        for draft in real_drafts[task]
        if not draft.options and len(draft.target) > 8 and draft.target not in draft.input
    ]
    for template in load_templates(task):
        for draft in drafts[:20]:
            if "input" not in template.fields:
                assert draft.target not in template.render(draft)[0]


@pytest.mark.parametrize("task", ["classify_bug", "classify_change", "predict_type"])
def test_options_are_shown_in_some_phrasings_and_not_in_others(real_drafts, task):
    shown = ["options" in template.fields for template in load_templates(task)]
    assert any(shown) and not all(shown)
    template = next(t for t in load_templates(task) if "options" in t.fields)
    draft = real_drafts[task][0]
    assert all(option in template.render(draft)[0] for option in draft.options)


@pytest.mark.parametrize("task", TASKS)
def test_one_is_singular(real_drafts, task):
    draft = real_drafts[task][0]
    one = Draft({**draft.fields, "input": "x", "count": 1}, target="target")
    for template in load_templates(task):
        instruction, _ = template.render(one)
        # These tasks' targets always have several words or numbers.
        if task not in ("list_parameters", "order_sentences", *_SEVERAL_WORDS):
            assert not re.search(r"\b1 (?:\w+ )?\w+s\b", instruction), instruction


_SEVERAL_WORDS = ("document_class", "document_function", "extract_summary", "summarise_docstring")


def bank(tmp_path, text, style="terse"):
    (tmp_path / "t.toml").write_text(
        f"templates = [{{ id = 'a', style = '{style}', text = '''{text}''' }}]"
    )
    return load_templates("t", folder=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{{ unknown }}",
        "{{ input.unknown }}",
        "{{ input.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ input.format.__globals__ }}",
        "{% for x in unknown %}{% endfor %}",
    ],
)
def test_unknown_fields_and_attributes_are_refused(tmp_path, text):
    (template,) = bank(tmp_path, text)
    with pytest.raises(DataError, match=r"t\.toml: template t\.a: .*; fields: input, target_words"):
        template.render(Draft({"input": "x"}, target="y"))


def test_fields_are_text_not_templates(tmp_path):
    (template,) = bank(tmp_path, "Say {{ input }}")
    assert template.render(Draft({"input": "{{ 1 + 1 }}"}, target="y")) == ("Say {{ 1 + 1 }}", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("templates = [{ id = 'a', style = 'rude', text = 'x' }]", "a style out of"),
        ("templates = [{ id = 'a', text = 'x' }]", "a template has id, text"),
        (
            "templates = [{ id = 'a', style = 'terse', text = 'x' },"
            " { id = 'a', style = 'terse', text = 'y' }]",
            "two templates are called 'a'",
        ),
        ("templates = [{ id = 'a', style = 'terse', text = '{{ x' }]", "template t.a"),
        ("nothing = 1", "not a list of templates"),
        ("templates = [", "not a list of templates"),
    ],
)
def test_broken_banks_name_the_file(tmp_path, content, message):
    (tmp_path / "t.toml").write_text(content)
    with pytest.raises(DataError, match=rf"t\.toml: .*{message}"):
        load_templates("t", folder=tmp_path)
    with pytest.raises(DataError, match="has no file of templates"):
        load_templates("u", folder=tmp_path)


def test_choice_depends_on_seed_and_example_alone():
    templates = load_templates("find_bug")
    chosen = [choose_template(templates, seed=0, example=str(n)).id for n in range(300)]
    assert chosen == [choose_template(templates, seed=0, example=str(n)).id for n in range(300)]
    assert chosen != [choose_template(templates, seed=1, example=str(n)).id for n in range(300)]
    assert set(chosen) == {template.id for template in templates}
    several = [choose_template(templates, seed=0, example="x", phrasing=n).id for n in range(11)]
    assert len(set(several)) == 11


def test_held_out_templates_are_fixed_by_the_seed():
    templates = load_templates("find_bug")
    held_out = held_out_templates(templates, count=2, seed=0)
    assert len(set(held_out)) == 2 and set(held_out) < set(templates)
    assert held_out == held_out_templates(tuple(reversed(templates)), count=2, seed=0)
    assert any(held_out != held_out_templates(templates, count=2, seed=s) for s in range(1, 9))
    assert all(template.style in STYLES for template in held_out)

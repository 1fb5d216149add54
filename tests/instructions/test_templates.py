import re

import pytest
from text_documents import all_documents

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Context, Draft
from instructrec_jax.instructions.sources import SOURCES
from instructrec_jax.instructions.tasks import TASKS
from instructrec_jax.instructions.templates import (
    FOLDER,
    STYLES,
    choose_template,
    held_out_templates,
    load_templates,
    tells_target,
)

# Units that together give drafts of every task.
UNITS = {
    "python_code": [("textwrap.py",), ("heapq.py",), ("calendar.py",), ("colorsys.py",),
                    ("graphlib.py",), ("tomllib/_parser.py",)],
    "python_topics": [("assert",), ("calls",), ("integers",), ("with",)],
    "locale_names": [("territories", "100"), ("date", "0"), ("date_and_time", "0"),
                     ("measure", "0"), ("amount", "0"), ("relative_time", "0"), ("list", "0")],
}  # fmt: skip


# The languages of locale_names; a kind of document that no test here makes.
LANGUAGES = ("de", "zh")
UNMADE = ("synthesised",)
# These hold the phrasings in Chinese that the project promises; translation and identification too.
CHINESE = (
    *("complete_passage", "document_function", "write_body", "summarise_docstring"),
    *("name_topic", "open_topic", "summarise_passage", "summarise_record"),
    *("rate_sentiment", "judge_sentiment", "classify_record", "relate_sentences"),
    *("translate_dates", "translate_names", "translate_messages", "translate_sentences"),
    *("identify_language", "identify_text_language"),
)
# Those about code, by at least five.
CHINESE_CODE = (
    *("diagnose_error", "repair_function", "repair_syntax", "explain_syntax_error", "find_bug"),
    *("write_tests", "complete_test", "expose_bug", "write_body", "complete_code"),
    *("document_function", "summarise_docstring", "code_from_comment", "predict_output"),
    *("predict_input", "predict_type", "name_function", "recover_types", "explain_call"),
    "classify_bug",
)
CLOSED = (
    *("classify_bug", "classify_change", "predict_type", "identify_language"),
    *("relate_sentences", "rate_sentiment", "judge_sentiment", "name_metre"),
    *("choose_next_sentence", "identify_text_language"),
)


@pytest.fixture(scope="module")
def real_drafts(sandbox):
    """{task: [drafts]} of the real generators on real documents, and on a few made by hand."""
    units = UNITS | {"package_metadata": SOURCES["package_metadata"].units(())[:25]}
    documents = all_documents() + [
        document
        for source, chosen in units.items()
        for unit in chosen
        for document in SOURCES[source].documents(unit, LANGUAGES, 0)
    ]
    context = Context(seed=0, sandbox=sandbox)
    found = {task: [] for task in TASKS}
    for document in documents:
        for name, task in TASKS.items():
            if document.kind in task.kinds:
                drafts = task.generate(document, context)
                found[name] += [draft for draft in drafts if draft.target and not draft.rejected]
    return found


def test_every_task_has_a_bank_in_several_styles_and_no_bank_is_an_orphan():
    assert {path.stem for path in FOLDER.iterdir()} == set(TASKS)
    for task in TASKS:
        templates = [t for t in load_templates(task) if t.style != "chinese"]
        assert len(templates) >= 10
        assert len({template.text for template in templates}) == len(templates)
        styles = {template.style for template in templates}
        assert {"imperative", "question", "terse", "polite", "search"} <= styles


def test_main_tasks_are_put_in_chinese_too():
    for task in (*CHINESE, *CHINESE_CODE):
        chinese = [t for t in load_templates(task) if t.style == "chinese"]
        assert len(chinese) >= (5 if task in CHINESE_CODE else 3)
        assert all(re.search("[\u4e00-\u9fff]", template.text) for template in chinese)


@pytest.mark.parametrize("task", TASKS)
def test_every_template_renders_with_the_generators_fields(real_drafts, task):
    drafts = real_drafts[task]
    assert drafts or set(TASKS[task].kinds) <= set(UNMADE)
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
def test_no_template_tells_the_target(real_drafts, task):
    for template in load_templates(task):
        for draft in real_drafts[task][:20]:
            # What the material holds is no secret.
            if draft.target not in draft.input:
                assert not tells_target(template, draft), (template.id, draft.target)


LABELS = ("positive", "negative", "neutral")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Say whether this is {{ options | inline }}.", False),
        ("Is this positive, negative or neutral?", False),
        ("Name the sentiment of: {{ input }}", False),
        ("How do the positives compare?", False),
        ("Is this positive?", True),
        ("Say that this Positive text is {{ options | inline }}.", True),
        ("Write a text; its sentiment is {{ label }}.", True),
        ("Is it positive or neutral?", True),
    ],
)
def test_planted_labels_are_found(tmp_path, text, told):
    (template,) = bank(tmp_path, text)
    fields = {"input": "A positive day.", "options": LABELS, "label": "positive"}
    assert tells_target(template, Draft(fields, target="positive", options=LABELS)) is told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Write the text called {{ input }}.", False),
        ("Write the text called {{ input }}: {{ body }}", True),
        ("It begins: THE SHIP   SAILED away. Go on.", False),
        ("It says: the ship sailed. Write it.", True),
    ],
)
def test_planted_targets_of_inverted_phrasings_are_found(tmp_path, text, told):
    (template,) = bank(tmp_path, text)
    fields = {"input": "Ships", "body": "The ship sailed."}
    assert tells_target(template, Draft(fields, target="The ship sailed.")) is told


def test_options_are_shown_in_several_forms(tmp_path):
    # They need not be among the fields.
    draft = Draft({"input": "x"}, target="a", options=("a", "b", "c"))
    for name, shown in (
        ("inline", "a, b or c"),
        ("inline_chinese", "a、b或c"),
        ("listed", "- a\n- b\n- c"),
        ("lettered", "A. a\nB. b\nC. c"),
    ):
        (template,) = bank(tmp_path, f"{{{{ options | {name} }}}}")
        assert template.render(draft)[0] == shown and template.shows_options
    one = Draft({"input": "x", "options": ("a",)}, target="a", options=("a",))
    (template,) = bank(tmp_path, "{{ options | inline }}{{ options | inline_chinese }}")
    assert template.render(one)[0] == "aa"
    many = tuple(map(str, range(30)))
    (template,) = bank(tmp_path, "{{ options | lettered }}")
    lines = template.render(Draft({"input": "x", "options": many}, target="1"))[0].split("\n")
    assert lines[25:28] == ["Z. 25", "27. 26", "28. 27"]


@pytest.mark.parametrize(
    ("name", "chinese"),
    [
        ("Polish", "波兰语"),
        ("Portuguese (Brazil)", "葡萄牙语（巴西）"),
        ("Chinese (Traditional, Taiwan)", "中文（繁体，台湾）"),
        ("the dialect of our village", "the dialect of our village"),
        ("Polish (of our village)", "Polish (of our village)"),
        ("", ""),
        (3, "3"),
    ],
)
def test_languages_have_their_chinese_names_in_chinese_phrasings(tmp_path, name, chinese):
    (template,) = bank(tmp_path, "译成{{ to | in_chinese }}：")
    assert template.render(Draft({"input": "x", "to": name}, target="y"))[0] == f"译成{chinese}："


def test_lengths_count_words_and_chinese_characters(tmp_path):
    (template,) = bank(tmp_path, "{{ target_words }}")
    assert template.render(Draft({"input": ""}, target="two words"))[0] == "2"
    assert template.render(Draft({"input": ""}, target="灯塔亮了。"))[0] == "4"
    assert template.render(Draft({"input": ""}, target="用 T5 训练"))[0] == "4"


@pytest.mark.parametrize("task", CLOSED)
def test_options_are_shown_in_some_phrasings_and_not_in_others(real_drafts, task):
    shown = ["options" in template.fields for template in load_templates(task)]
    assert any(shown) and not all(shown)
    template = next(t for t in load_templates(task) if "options" in t.fields)
    draft = real_drafts[task][0]
    instruction = template.render(draft)[0]
    assert all(option in instruction for option in draft.options)


@pytest.mark.parametrize("task", TASKS)
def test_one_is_singular(real_drafts, task):
    if not real_drafts[task]:
        return
    draft = real_drafts[task][0]
    one = Draft({**draft.fields, "input": "x", "count": 1}, target="target")
    for template in load_templates(task):
        instruction, _ = template.render(one)
        # These tasks' targets always have several words or numbers.
        if task not in (*_SEVERAL_ITEMS, *_SEVERAL_WORDS):
            assert not re.search(r"\b1 (?:\w+ )?\w+s\b", instruction), instruction


_SEVERAL_ITEMS = (
    "list_parameters",
    "order_sentences",
    "order_words",
    "continue_tune",
    "write_tests",
)
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
        "{{ input.upper }}",
        "{{ input.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ input.format.__globals__ }}",
        "{% for x in unknown %}{% endfor %}",
        "{{ input + 1 }}",
        "{{ 1 - input }}",
        "{{ input | length | join }}",
    ],
)
def test_unknown_fields_attributes_and_misfits_are_refused(tmp_path, text):
    (template,) = bank(tmp_path, text)
    with pytest.raises(DataError, match=r"t\.toml: template t\.a: .*; fields: input, target_words"):
        template.render(Draft({"input": "x"}, target="y"))


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ input | center(1000000000) }}",
        "{{ input | pprint }}",
        "{{ input.ljust(1000000000) }}",
        "{{ range(1000000000) }}",
        "{% for a in input %}{% for b in input %}x{% endfor %}{% endfor %}",
        "{{ input | replace('x', 'xxxx') | replace('x', 'xxxx') }}",
        "{{ input | join(input) }}",
        "{{ input | join(d=input) }}",
        "{{ input | listed | upper | listed }}",
        "{{ ((input | listed) + 'x') | join(',') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set x = input %}",
        "{{ lipsum() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ],
)
def test_what_calls_multiplies_or_loads_is_refused_before_it_runs(tmp_path, text):
    with pytest.raises(DataError, match=r"t\.toml: template t\.a: a template may not use "):
        bank(tmp_path, text.replace("'", '"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for letter in input %}{{ input }}{% endfor %}", "a loop cannot go through a str"),
        ("{% for one in input | upper %}x{% endfor %}", "a loop cannot go through a str"),
        ("{% for one in options %}{{ input }}{% endfor %}", "has more than 9.,... characters"),
        ("{% for one in number %}x{% endfor %}", "a loop cannot go through a int"),
        ("{% for one in many %}x{% endfor %}", "a loop cannot go through 2,000 items"),
        ("{{ input }}" * 20, "has more than"),
    ],
)
def test_texts_out_of_proportion_are_refused(tmp_path, text, message):
    (template,) = bank(tmp_path, text)
    fields = {"input": "x" * 10_000, "options": tuple("abcdefgh" * 4), "number": 3}
    fields |= {"many": [""] * 2_000} if "many" in text else {}
    with pytest.raises(DataError, match=rf"t\.toml: template t\.a: .*{message}"):
        template.render(Draft(fields, target="y", options=("a", "b")))


def test_loops_go_through_lists_and_mappings(tmp_path):
    text = "{% for name in columns %}{{ loop.index }}{{ name }}={{ columns[name] }};{% endfor %}"
    (template,) = bank(tmp_path, text)
    draft = Draft({"input": "", "columns": {"a": 1, "b": 2}}, target="y")
    assert template.render(draft)[0] == "1a=1;2b=2;"
    with pytest.raises(DataError, match="'columns' is undefined"):
        template.render(Draft({"input": ""}, target="y"))


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

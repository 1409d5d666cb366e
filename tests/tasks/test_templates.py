import pytest
import yaml

from dmaxlit.errors import UserError
from dmaxlit.tasks.prompts import TemplatedPrompt, conversation_of, is_plain
from dmaxlit.tasks.templates import known_templates, load_template, read_template

FIELDS = ("question",)
SHOT = {"question": "1 + 1?", "response": "2"}


def write(folder, content, name="mine.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_prompt_is_filled_once_and_single_braces_are_text(tmp_path):
    path = write(tmp_path, {"prompt": r"{{question}} in {x}, {{ question }}, \boxed{}"})
    prompt = read_template(path, FIELDS).render({"question": "what is {{question}}"}, 0)
    assert prompt == r"what is {{question}} in {x}, what is {{question}}, \boxed{}"


def test_chat_has_turns_for_system_and_examples(tmp_path):
    path = write(tmp_path, {"prompt": "Q: {{question}}", "system": "Count.", "shots": [SHOT, SHOT | {"response": "3"}]})
    template = read_template(path, FIELDS)
    prompt = template.render({"question": "2?"}, 1)
    assert conversation_of(prompt) == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "Q: 1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Q: 2?"},
    ]
    assert not is_plain(prompt)
    assert prompt == "Count.\n\nQ: 1 + 1? 2\n\nQ: 2?"
    assert len(conversation_of(template.render({"question": "2?"}, 2))) == 6


def test_plain_is_one_text_to_continue(tmp_path):
    path = write(tmp_path, {"prompt": "Q: {{question}}\nA:", "chat": False, "shots": [SHOT]})
    prompt = read_template(path, FIELDS).render({"question": "2?"}, 1)
    assert is_plain(prompt)
    assert prompt == "Q: 1 + 1?\nA: 2\n\nQ: 2?\nA:"
    assert conversation_of(prompt) is prompt


def test_a_templated_prompt_survives_pickling():
    import pickle

    for messages in (None, [{"role": "user", "content": "hi"}]):
        copy = pickle.loads(pickle.dumps(TemplatedPrompt("hi", messages)))
        assert copy == "hi"
        assert copy.messages == messages


def test_an_answer_ends_at_the_first_stop_text(tmp_path):
    template = read_template(write(tmp_path, {"prompt": "{{question}}", "stop": ["\nQ", "END"]}), FIELDS)
    assert template.answer_of("5 END 6\nQ: 7") == "5 "
    assert template.answer_of("5\nQ: 7 END") == "5"
    assert template.answer_of("5") == "5"


def test_a_template_is_found_by_name_file_and_folder(tmp_path):
    assert load_template("gsm8k", "dmax", FIELDS).name == "dmax"
    path = write(tmp_path, {"prompt": "own {{question}}"})
    for name in (path, tmp_path):
        assert load_template("gsm8k", str(name), FIELDS).prompt == "own {{question}}"
    write(tmp_path, {"prompt": "of the task {{question}}"}, "gsm8k.yaml")
    assert load_template("gsm8k", str(tmp_path), FIELDS).prompt == "of the task {{question}}"
    write(tmp_path, {"prompt": "{{question}}"}, "other.yaml")
    with pytest.raises(UserError, match=r"expected one .yaml file, or a math500.yaml, in .*, got 3 files"):
        load_template("math500", str(tmp_path), FIELDS)


@pytest.mark.parametrize("name", ["other", "", "x" * 5000, "no\0path", "../gsm8k/dmax"])
def test_an_unknown_template_is_refused_with_the_known_names(name):
    with pytest.raises(UserError, match=r"^template: expected one of gsm8k \(dmax, few_shot, zero_shot\), or a .yaml"):
        load_template("gsm8k", name, FIELDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt: [", r"cannot read .*mine.yaml' \("),
        ("a\0b", r"cannot read .*mine.yaml' \("),
        ('prompt: "{{question}} \\uD800"', r"mine.yaml': has a lone surrogate \(\\ud800\)"),
        ("- prompt", r"mine.yaml': expected keys such as prompt, got a value of type list"),
        ("", r"mine.yaml': expected keys such as prompt, got None"),
        ({"prompts": "{{question}}"}, r"mine.yaml': expected keys of prompt, system, .*, got 'prompts'"),
        ({"system": "x"}, r"mine.yaml', prompt: expected a text, got None"),
        ({"prompt": 5}, r"mine.yaml', prompt: expected a text, got 5"),
        ({"prompt": "x"}, r"mine.yaml', prompt: expected fields of \{\{question\}\}, got none"),
        ({"prompt": "{{question}} {{hint}}"}, r"prompt: expected fields of \{\{question\}\}, got \{\{hint\}\}"),
        ({"prompt": "{{question}}", "system": [1]}, r"mine.yaml', system: expected a text without fields, got \[1\]"),
        (
            {"prompt": "{{question}}", "system": "{{question}}"},
            r"mine.yaml', system: expected a text without fields, got",
        ),
        ({"prompt": "{{question}}", "chat": "no"}, r"mine.yaml', chat: expected true or false, got 'no'"),
        ({"prompt": "{{question}}", "stop": "Q"}, r"mine.yaml', stop: expected a list of texts, got 'Q'"),
        ({"prompt": "{{question}}", "shots": 3}, r"mine.yaml', shots: expected a list, got a value of type int"),
        (
            {"prompt": "{{question}}", "shots": [SHOT, {"question": "x"}]},
            "mine.yaml', shots, item 2: expected texts question, response, got question$",
        ),
        (
            {"prompt": "{{question}}", "shots": [SHOT | {"response": 2}]},
            "mine.yaml', shots, item 1: expected texts question, response, got question, response$",
        ),
    ],
)
def test_a_bad_template_is_refused_in_one_line_that_names_file_and_key(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        load_template("gsm8k", str(path), FIELDS)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"template: cannot read .*none.yaml' "):
        load_template("gsm8k", str(tmp_path / "none.yaml"), FIELDS)


@pytest.mark.parametrize("task", ["gsm8k", "asdiv", "math500", "minerva_algebra"])
def test_each_benchmark_has_templates_for_chat_and_for_plain_text(task):
    fields = ("body", "question", "problem")
    templates = [load_template(task, name, fields) for name in known_templates(task)]
    assert {template.chat for template in templates} == {True, False}
    assert "zero_shot" in known_templates(task)
    assert "dmax" in known_templates(task)

import warnings

import pytest

from dmaxlit.data.corpus_reader import Row
from dmaxlit.data.lost_turns import check_losses, check_roles, rows_with_warnings, warn_of_losses
from dmaxlit.data.messages import Conversation
from dmaxlit.errors import DMaxWarning, PromptError
from tests.data.chat_tokenizers import CHATML, byte_level

USER = {"role": "user", "content": "u"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
NO_TEMPLATE = "the tokenizer has no chat template, so roles are lost and turns are joined by line breaks"
TOOLS = CHATML + "{{ tools | length }}{{ messages[0].tool_calls | length }}"


def losses(template, prompts):
    """Return the warnings that rows give, without their location, and those that prompts give."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = [Row(prompt, "a", f"row {number}") for number, prompt in enumerate(prompts, start=1)]
        assert list(rows_with_warnings(rows, byte_level(template))) == rows
        of_rows = [str(warning.message) for warning in caught]
        caught.clear()
        warn_of_losses(byte_level(template), prompts)
        of_prompts = [str(warning.message) for warning in caught]
        assert all(warning.category is DMaxWarning for warning in caught)
    return of_rows, of_prompts


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        (None, ["a", "b"]),
        (None, [[USER], [USER]]),
        (CHATML, [[USER, USER], [{"role": "system", "content": "s"}, USER], "a"]),
        (TOOLS, [Conversation([CALL, USER], [{"name": "f"}])]),
        ({"default": CHATML, "tool_use": TOOLS}, [Conversation([CALL, USER], [{"name": "f"}])]),
    ],
)
def test_nothing_lost_is_no_warning(template, prompts):
    assert losses(template, prompts) == ([], [])


@pytest.mark.parametrize(
    ("template", "lossy", "loss"),
    [
        (None, [USER, {"role": "assistant", "content": "a"}, USER], NO_TEMPLATE),
        (None, [{"role": "system", "content": "s"}], NO_TEMPLATE),
        (None, Conversation([USER], [{"name": "f"}]), NO_TEMPLATE),
        (CHATML, [USER, CALL, USER], "the chat template does not write tool_calls, which are lost"),
        (CHATML, Conversation([USER, CALL], [{}]), "the chat template does not write tool_calls and tools, which"),
        (CHATML, Conversation([USER], [{"name": "f"}]), "the chat template does not write tools, which are lost"),
    ],
)
def test_a_loss_is_one_warning_that_names_the_first_row(template, lossy, loss):
    (of_rows,), (of_prompts,) = losses(template, ["a", [USER], lossy, lossy])
    assert of_rows.startswith(f"row 3, and perhaps others: {loss}")
    assert of_rows.endswith("; data.chat_template takes a .jinja file")
    assert of_prompts.startswith(f"prompts: {loss}")


CUT = CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}")
OPEN = "assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        (None, False),
        (CHATML, False),
        (CUT, True),
        (CUT.replace("assistant\n{% endif %}", OPEN), False),  # the response goes on with the prompt's thought
        ("{{ raise_exception('no') }}", False),  # which is found when the row is encoded
    ],
)
def test_a_template_that_drops_thoughts_is_one_warning(template, lost):
    rows = [Row("a", "b", "row 1"), *(Row([USER], "well</think>4", f"row {number}") for number in (2, 3))]
    noted = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(rows_with_warnings(rows, byte_level(template), noted)) == rows
    warning = (
        "row 2, and perhaps others: the chat template does not write what the response has before </think>, which is"
    )
    assert [text.partition(" lost;")[0] for text in noted] == [warning] * lost
    assert len(caught) == lost


def test_conversations_of_several_turns_need_a_template():
    prompts = ["a", [USER], [USER, USER], [CALL]]
    check_roles(byte_level(CHATML), prompts)
    check_roles(byte_level(None), prompts[:2])
    with pytest.raises(
        PromptError, match=r"^prompts\[2\]: expected a model with a chat template for a conversation, got"
    ):
        check_roles(byte_level(None), prompts)


def test_conversations_that_lose_anything_are_refused_where_nobody_would_see_a_warning():
    prompts = ["a", [USER, CALL, USER]]
    check_losses(byte_level(TOOLS), prompts)
    for template, reason in ((CHATML, "the chat template does not write tool_calls"), (None, "model with a chat")):
        with pytest.raises(PromptError, match=rf"^prompts\[1\]: expected a .*{reason}"):
            check_losses(byte_level(template), prompts)

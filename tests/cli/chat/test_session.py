import pytest

from dmaxlit.cli.chat.commands import run_command
from dmaxlit.cli.chat.session import ChatSession
from dmaxlit.engine import Trace
from dmaxlit.errors import UserError
from tests.cli.chat.conftest import SETTINGS

FIRST, SECOND = "3 +1 ?", "4 -2 ?"


def last(frames):
    return list(frames)[-1]


def test_each_turn_sees_the_ones_before_and_answers_are_those_of_generate(session):
    first = last(session.answer(FIRST)).generation
    second = last(session.answer(SECOND)).generation
    turns = [
        {"role": "user", "content": FIRST},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": SECOND},
    ]
    expected = session.module.generate_batch([turns[:1], turns], SETTINGS)
    assert [first, second] == expected
    assert [exchange.answer for exchange in session.exchanges] == [answer.text for answer in expected]


def test_without_a_chat_template_each_text_is_a_prompt_of_its_own(module):
    session = ChatSession(module, SETTINGS)
    last(session.answer(FIRST))
    assert last(session.answer(SECOND)).generation == module.generate_batch(SECOND, SETTINGS)[0]
    with pytest.raises(UserError, match=r"^system: expected a model with a chat template"):
        session.set_system("4")


def test_the_system_s_turn_comes_first_and_a_refused_one_changes_nothing(session):
    session.set_system("9")
    prompt = last(session.answer(FIRST)).generation.prompt
    assert prompt == [{"role": "system", "content": "9"}, {"role": "user", "content": FIRST}]
    session.module.tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(UserError, match="no system"):
        session.set_system("8")
    assert session.system == "9"


def test_a_retry_replaces_the_answer_with_the_next_seed(module):
    session = ChatSession(module, SETTINGS)
    session.configure(type(SETTINGS)("threshold", {"threshold": 0.5}, max_new_tokens=40, temperature=2.0, seed=3))
    last(session.answer(FIRST))
    last(session.retry())
    second = last(session.retry()).generation
    assert [exchange.seed for exchange in session.exchanges] == [5]
    same = type(SETTINGS)("threshold", {"threshold": 0.5}, max_new_tokens=40, temperature=2.0, seed=5)
    assert second == module.generate_batch(FIRST, same)[0]
    assert session.totals.answers == 3


def test_a_stopped_answer_keeps_the_text_of_its_finished_blocks(session):
    answer = session.answer(FIRST)
    frame = next(frame for frame in answer if frame.committed)
    assert frame.generation is None
    answer.close()
    (exchange,) = session.exchanges
    assert exchange.answer == frame.committed
    assert exchange.num_tokens == frame.num_committed <= frame.num_tokens
    assert exchange.generation is None


@pytest.mark.parametrize("window", [1, 2])
def test_the_trace_of_a_stopped_answer_ends_with_its_open_blocks_as_they_were(session, window):
    # The budget ends in the middle of a block; at this threshold a forward decides one token or two.
    settings = type(SETTINGS)("threshold", {"threshold": 0.99}, max_new_tokens=39, window=window)
    session.configure(settings)
    expected = Trace()
    session.module.generate_batch([[{"role": "user", "content": FIRST}]], settings, trace=expected)
    whole, _ = expected.rows[0].timeline()
    answer = session.answer(FIRST)
    for number in range(1, len(whole) - 1):
        frame = next(answer)
        if number == len(whole) // 2:
            break
    answer.close()
    ids, _ = session.trace.rows[0].timeline()
    assert len(ids) == number
    size = min(ids.shape[1], whole.shape[1])
    assert ids[:, :size].tolist() == whole[:number, :size].tolist()
    assert ids.shape[1] <= 39
    assert (ids[-1] < 0).any()
    recording = session.trace.rows[0].recording()
    assert recording.figures()["tokens"] == int((ids[-1] >= 0).sum()) >= frame.num_tokens
    assert f"{recording.figures()['tokens']} tokens in {number} forwards" in run_command(session, "/stats").text
    assert session.trace.label == f"{settings.title}, stopped"
    assert FIRST in session.trace.to_html()


def test_an_answer_stopped_before_its_first_block_has_a_trace(session):
    answer = session.answer(FIRST)
    assert not next(answer).committed
    answer.close()
    assert session.trace.rows[0].num_forwards == 1


def test_tokens_of_open_blocks_do_not_count_in_a_stopped_answer(session):
    answer = session.answer(FIRST)
    frame = next(frame for frame in answer if frame.committed and frame.num_tokens > frame.num_committed)
    answer.close()
    assert session.exchanges[0].num_tokens == session.totals.tokens == frame.num_committed


def test_an_answer_stopped_before_its_first_block_leaves_the_conversation_as_it_was(session):
    last(session.answer(FIRST))
    before = session.exchanges[:]
    for answer in (session.answer(SECOND), session.retry()):
        assert not next(answer).committed
        answer.close()
        assert session.exchanges == before
    assert session.totals.answers == 3


def test_a_text_that_the_context_does_not_hold_leaves_the_conversation_as_it_was(session):
    last(session.answer(FIRST))
    before = session.exchanges[:]
    with pytest.raises(UserError, match=r"^conversation: expected at most 127 tokens .*; /new begins another one$"):
        last(session.answer("3 " * 200))
    assert session.exchanges == before


def test_refused_settings_change_nothing(session):
    with pytest.raises(UserError, match="temperature"):
        session.configure(type(SETTINGS)(temperature=-1))
    assert session.settings == SETTINGS


def test_the_trace_is_that_of_the_last_answer(session):
    last(session.answer(FIRST))
    answer = last(session.answer(SECOND))
    assert session.trace.rows[0].num_forwards == answer.num_forwards
    assert SECOND in session.trace.to_html()

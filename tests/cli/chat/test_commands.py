import pytest

from dmaxlit.cli.chat.commands import COMMANDS, run_command
from dmaxlit.errors import UserError


def test_a_decoder_takes_its_options(session):
    assert run_command(session, "/decoder spd tau_dec=0.3").text == "decoder: spd tau_dec=0.3"
    assert (session.settings.decoder, session.settings.decoder_options) == ("spd", {"tau_dec": 0.3})
    assert session.settings.max_new_tokens == 40
    assert ", credit, edit, " in run_command(session, "/decoder").text.partition("; known: ")[2]


def test_temperature_and_system_are_set_and_shown(session):
    run_command(session, "/temperature 1e-1")
    assert session.settings.temperature == 0.1
    assert run_command(session, "/temperature").text == "temperature: 0.1"
    run_command(session, "/system  Be 3. ")
    assert session.system == "Be 3."
    run_command(session, "/system")
    assert session.system == ""


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("/retri", "unknown command '/retri' (did you mean retry?); known: /decoder, "),
        ("/", "unknown command '/'; known: "),
        ("/decoder nope", "unknown decoder 'nope'"),
        ("/decoder spd 0.3", "decoder: expected key=value behind the name, got '0.3'"),
        ("/decoder spd tau_dec=2", "tau_dec: expected a number in [0, 1], got 2"),
        ("/decoder less patience=1000000000000000000000", "patience: expected int, got a number beyond 64 bits"),
        ("/decoder spd 'a", 'decoder: expected NAME key=value ..., got "spd \'a"'),
        ("/temperature hot", "temperature: expected a number, got 'hot'"),
        ("/temperature nan", "temperature: expected a number from 0 to 10000, got nan"),
        ("/retry", "retry: expected an answer to replace, got none yet"),
        ("/retry now", "retry: expected nothing behind it, got 'now'"),
        ("/trace", "trace: expected a file that ends in .html, got ''"),
        ("/trace a.html", "trace: expected an answer to show, got none yet"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(session, line, refusal):
    before = session.settings
    with pytest.raises(UserError) as refused:
        run_command(session, line)
    assert str(refused.value).startswith(refusal)
    assert session.settings == before
    assert session.exchanges == []


def test_the_last_answer_becomes_a_page(session, tmp_path):
    list(session.answer("3 +1 ?"))
    run_command(session, f"/trace {tmp_path / 'a.html'}")
    assert "3 +1 ?" in (tmp_path / "a.html").read_text()
    (tmp_path / "b.html").mkdir()
    with pytest.raises(UserError, match=r"^trace: expected a file to write, got the folder"):
        run_command(session, f"/trace {tmp_path / 'b.html'}")


def test_stats_count_every_answer(session):
    assert run_command(session, "/stats").text == "no answers yet"
    list(session.answer("3 +1 ?"))
    list(run_command(session, "/retry").frames)
    shown, totals = run_command(session, "/stats").text, session.totals
    assert shown.startswith("last answer: ")
    assert f"2 answers: {totals.tokens} tokens, {totals.forwards} forwards" in shown
    run_command(session, "/new")
    assert session.exchanges == []
    assert "2 answers" in run_command(session, "/stats").text


def test_help_names_every_command(session):
    assert all(f"/{name}" in run_command(session, "/help").text for name in COMMANDS)
    assert run_command(session, "/quit").ends

"""The page in headless Chromium."""

from dataclasses import replace

import pytest
import torch

from dmaxlit.viewer import Panel
from tests.viewer.chromium import CHROMIUM
from tests.viewer.page_parts import expected_tokens, forward_of, panel_of, shown_tokens, wait
from tests.viewer.recordings import synthetic, texts_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")

HOSTILE = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"></script><!--"


def test_keys_step_through_the_response(shown):
    recording = synthetic(20, 24, 8)
    browser = shown(panel_of(recording))
    assert shown_tokens(browser) == [""] * 24
    for key, forward in [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("End", 20),
        ("ArrowRight", 20),
        ("ArrowLeft", 19),
        ("Home", 0),
    ]:
        browser.press(key)
        assert forward_of(browser) == forward
        assert shown_tokens(browser) == expected_tokens(recording, forward)
    assert browser.run("document.getElementById('forward').textContent") == "forward 0 of 20"


def test_the_slider_moves_to_any_forward_and_back(shown):
    recording = synthetic(30, 40, 8)
    browser = shown(panel_of(recording))
    for forward in (17, 30, 3, 16):
        browser.run(f"(() => {{ slider.value = {forward}; slider.dispatchEvent(new Event('input')); }})()")
        assert shown_tokens(browser) == expected_tokens(recording, forward)
    assert browser.run("slider.getAttribute('aria-valuetext')") == "forward 16 of 30"
    browser.run("slider.focus()")
    browser.press("ArrowRight")  # once, not by the slider and again by the page
    assert forward_of(browser) == 17


def test_states_confidences_and_revisions_are_classes(shown):
    recording = synthetic(20, 24, 8)
    revised_at = (recording.ids[1:] != recording.ids[:-1]) & (recording.ids[:-1] >= 0)
    forward = int(revised_at.any(1).nonzero()[2]) + 1  # an index: some token was revised since the forward before
    browser = shown(panel_of(recording), fragment=f"#forward={forward + 1}")
    names = browser.run("[...document.querySelectorAll('[data-position]')].map((s) => s.className.split(' '))")
    confidence = recording.last_confidence()
    for position, classes in enumerate(names):
        state = int(recording.state[forward, position])
        assert classes[0] == f"s{state}"
        if state >= 2:
            assert classes[1] == f"c{int(float(confidence[forward, position]) * 10)}"
            assert ("revised" in classes) == bool(revised_at[:forward, position].any())
            assert ("now" in classes) == bool(revised_at[forward - 1, position])
    assert any("now" in classes for classes in names)


def test_playing_ends_at_the_last_forward_and_space_pauses(shown):
    browser = shown(panel_of(synthetic(12, 8, 8)))
    browser.run("document.getElementById('speed').value = '60'")
    browser.press(" ")
    assert browser.run("document.getElementById('play').getAttribute('aria-pressed')") == "true"
    browser.press(" ")
    assert browser.run("document.getElementById('play').getAttribute('aria-pressed')") == "false"
    browser.run("document.getElementById('play').click()")
    wait(browser, "slider.value === '12'")
    assert browser.run("document.getElementById('play').getAttribute('aria-label')") == "Play"
    assert "8 of 8 tokens shown" in browser.run("document.querySelector('[aria-live]').textContent")


def test_a_click_on_the_heat_map_moves_to_its_forward(shown):
    browser = shown(panel_of(synthetic(10, 24, 8)))
    box = browser.run("document.querySelector('canvas').getBoundingClientRect().toJSON()")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.mouse(kind, box["x"] + 5, box["y"] + box["height"] * 0.65)
    assert forward_of(browser) == 7


def test_the_heat_map_has_a_pixel_for_each_cell_in_the_state_s_colour(shown):
    recording = synthetic(20, 24, 8)
    browser = shown(panel_of(recording))
    cells = browser.run(
        "(() => { const c = document.querySelector('canvas'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height); return [c.width, c.height, [...new Uint32Array(d.data.buffer)]]; })()"
    )
    assert cells[:2] == [24, 20]
    revised = (recording.ids[1:] != recording.ids[:-1]) & (recording.ids[:-1] >= 0)
    kinds = {}
    for at, colour in enumerate(cells[2]):
        forward, position = divmod(at, 24)
        is_revised = forward > 0 and bool(revised[forward - 1, position])
        kinds.setdefault("revised" if is_revised else int(recording.state[forward, position]), set()).add(colour)
    assert len(kinds["revised"]) == len(kinds[0]) == 1
    assert len(kinds[1]) > 3  # by confidence
    assert len(kinds[2]) > 3
    every = [colour for colours in kinds.values() for colour in colours]
    assert len(every) == len(set(every))  # no colour has two meanings


def test_a_revised_token_says_what_it_was_and_when(shown):
    recording = synthetic(20, 8, 8)
    browser = shown(panel_of(recording), fragment="#forward=19")
    browser.press("n")
    assert browser.run("document.getElementById('history').hidden") is False
    position = int(browser.run("document.activeElement.dataset.position"))
    lines = browser.run("document.getElementById('history').textContent").split("\n")
    texts, runs = texts_of(recording), []
    for forward, token in enumerate(recording.ids[:19, position].tolist(), 1):
        if not runs or runs[-1][0] != token:
            runs.append([token, forward, forward])
        runs[-1][2] = forward
    seen = [run for run in runs if run[0] >= 0]
    assert len(lines) == len(seen) >= 2
    for line, (token, first, last) in zip(lines, seen, strict=True):
        when = f"forward {first}" if first == last else f"forwards {first} to {last}"
        assert line.startswith(f"“{texts[token]}”: {when}, confidence 0.")
    assert browser.run("document.activeElement.getAttribute('aria-describedby')") == "history"
    browser.press("Escape")
    assert browser.run("document.getElementById('history').hidden") is True


def test_of_a_long_history_the_end_is_shown(shown):
    recording = synthetic(40, 8, 8)
    recording = replace(recording, ids=torch.arange(40).unsqueeze(1).expand(40, 8))
    browser = shown(panel_of(recording), fragment="#forward=40")
    browser.press("n")
    lines = browser.run("document.getElementById('history').textContent").split("\n")
    assert lines[0] == "28 earlier, and then"
    assert [line.partition(", ")[0] for line in lines[1:]] == [
        f"“{texts_of(recording)[number - 1]}”: forward {number}" for number in range(29, 41)
    ]


def test_a_text_with_markup_stays_text(shown):
    recording = replace(synthetic(6, 8, 4), prompt=f"{HOSTILE}\u2028\ud800")
    browser = shown(panel_of(recording, HOSTILE, dict.fromkeys(texts_of(recording), HOSTILE)), fragment="#forward=6")
    browser.press("n")
    assert shown_tokens(browser) == [HOSTILE] * 8
    assert browser.run("document.title") == "Title"
    assert browser.run("document.querySelectorAll('img, section script').length") == 0
    assert browser.run("document.querySelector('h2').textContent") == HOSTILE
    assert browser.run("document.querySelector('.prompt').textContent") == f"{HOSTILE}\\u2028\\ud800"


def test_several_traces_step_together_and_the_shorter_one_waits_at_its_end(shown):
    short, long = synthetic(8, 16, 8, seed=1), synthetic(20, 16, 8, seed=2)
    browser = shown(panel_of(short, "short"), panel_of(long, "long"), fragment="#forward=5")
    assert (shown_tokens(browser, 0), shown_tokens(browser, 1)) == (expected_tokens(short, 5), expected_tokens(long, 5))
    browser.press("End")
    assert (shown_tokens(browser, 0), shown_tokens(browser, 1)) == (
        expected_tokens(short, 8),
        expected_tokens(long, 20),
    )
    summary = browser.run("document.querySelector('[aria-live]').textContent")
    assert summary.startswith("Forward 20 of 20. short: ")
    assert "; long: " in summary


def test_prompts_are_chosen_from_a_list_and_one_may_lack_a_record(shown):
    first, second = synthetic(8, 16, 8, seed=1), synthetic(6, 8, 8, seed=2)
    texts = texts_of(first) | texts_of(second)
    browser = shown(Panel("both", {0: first, 7: second}, texts), Panel("one", {0: first}, texts), fragment="#prompt=7")
    browser.press("End")
    assert shown_tokens(browser) == expected_tokens(second, 6)
    assert "no record of this prompt" in browser.run("document.querySelectorAll('section')[1].textContent")
    browser.run(
        "(() => { const list = document.getElementById('prompt'); list.value = '0'; "
        "list.dispatchEvent(new Event('change')); })()"
    )
    wait(browser, "slider.max === '8'")
    browser.press("End")
    assert shown_tokens(browser, 1) == expected_tokens(first, 8)


def test_the_prompt_that_was_chosen_last_is_shown_whichever_is_decoded_first(shown):
    first, second = synthetic(8, 16, 8, seed=1), synthetic(6, 8, 8, seed=2)
    browser = shown(Panel("one", {0: first, 7: second}, texts_of(first) | texts_of(second)))
    browser.run(
        "(() => { const { arrayBuffer } = Response.prototype; let calls = 0; "
        "const held = new Promise((resolve) => { window.finish = resolve; }); "
        "Response.prototype.arrayBuffer = async function () { "
        "if (calls++ === 0) await held; return arrayBuffer.call(this); }; "
        "const list = document.getElementById('prompt'); "
        "for (const index of ['0', '7']) { list.value = index; list.dispatchEvent(new Event('change')); } })()"
    )
    wait(browser, "slider.max === '6'")
    browser.run("(async () => { finish(); await new Promise((done) => setTimeout(done, 50)); })()")
    browser.press("End")
    assert shown_tokens(browser) == expected_tokens(second, 6)


def test_a_response_without_tokens_is_shown(shown):
    recording = replace(synthetic(3, 4, 4), prompt="nothing")
    empty = replace(
        recording, ids=recording.ids[:, :0], confidence=recording.confidence[:, :0], state=recording.state[:, :0],
        finalized=recording.finalized[:0], block=recording.block[:0],
    )  # fmt: skip
    browser = shown(panel_of(empty, texts={0: ""}))
    browser.press("End")
    assert forward_of(browser) == 3

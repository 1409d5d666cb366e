"""Long responses in headless Chromium: a step draws what has changed."""

import pytest

from tests.viewer.chromium import CHROMIUM
from tests.viewer.measure import frame_times
from tests.viewer.page_parts import expected_tokens, panel_of, shown_tokens
from tests.viewer.recordings import synthetic

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")


def touched_by_a_step(browser):
    """Return the positions whose elements the next step changes, in its own frame."""
    return browser.run(
        "new Promise((done) => { const seen = new Set(); new MutationObserver((list) => { "
        "for (const { target } of list) { const at = (target.nodeType === 3 ? target.parentNode : target)"
        ".dataset?.position; if (at !== undefined) seen.add(Number(at)); } done([...seen]); })"
        ".observe(document.querySelector('.tokens'), { subtree: true, childList: true, characterData: true, "
        "attributes: true }); document.getElementById('step').click(); })"
    )


def test_a_step_touches_only_what_has_changed(shown):
    recording = synthetic(100, 400, 32)
    browser = shown(panel_of(recording), fragment="#forward=50")
    changed = touched_by_a_step(browser)
    before, after = recording.ids[49], recording.ids[50]
    assert set((before != after).nonzero().flatten().tolist()) <= set(changed)
    assert len(changed) <= 2 * 32  # tokens of the open block, and of the block that has just been committed


def test_a_step_of_a_long_block_draws_what_is_in_view_and_at_rest_the_others(shown):
    recording = synthetic(60, 2000, 2000)
    browser = shown(panel_of(recording), fragment="#forward=30")
    browser.run("new Promise((done) => setTimeout(done, 400))")
    assert shown_tokens(browser) == expected_tokens(recording, 30)
    changed = touched_by_a_step(browser)
    assert 200 < len(changed) < 1000
    browser.run("new Promise((done) => setTimeout(done, 400))")
    assert shown_tokens(browser) == expected_tokens(recording, 31)


def test_tokens_that_scroll_into_view_are_of_the_forward_that_is_shown(shown):
    recording = synthetic(60, 2000, 2000)
    browser = shown(panel_of(recording), fragment="#forward=1")
    browser.run("new Promise((done) => setTimeout(done, 400))")
    browser.press("ArrowRight")
    two_frames = "requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done)))"
    # In one call, and before the page is at rest.
    last = "[...document.querySelectorAll('[data-position]')].slice(-20).map((span) => span.textContent)"
    texts = browser.run(
        f"(async () => {{ for (let k = 0; k < 5; k++) document.getElementById('step').click(); const before = {last}; "
        f"document.querySelector('.tokens').scrollTop = 1e6; await new Promise((done) => {two_frames}); "
        f"return [before, {last}]; }})()"
    )
    assert texts == [expected_tokens(recording, 1)[-20:], expected_tokens(recording, 7)[-20:]]


def test_the_open_block_of_a_long_response_is_in_view(shown):
    browser = shown(panel_of(synthetic(120, 2000, 32)))
    for forward in (118, 60, 2):
        browser.run(f"(() => {{ slider.value = {forward}; slider.dispatchEvent(new Event('input')); }})()")
        browser.run("new Promise((done) => setTimeout(done, 200))")
        inside = browser.run(
            "(() => { const box = document.querySelector('.tokens').getBoundingClientRect(); const open = "
            "document.querySelector('.block.open').getBoundingClientRect(); "
            "return box.top <= open.top && open.bottom <= box.bottom + 1; })()"
        )
        assert inside, forward


def test_frames_of_a_long_response_are_fast(shown):
    """The bound is generous for busy machines: the whole response drawn anew at each step would take far more."""
    browser = shown(panel_of(synthetic(120, 2000, 32)))
    assert frame_times(browser, 120)["program median"] < 16

"""How the page looks in headless Chromium: colours, sizes, and what a screen reader reads."""

from dataclasses import replace

import pytest

from tests.viewer.chromium import CHROMIUM
from tests.viewer.page_parts import panel_of
from tests.viewer.recordings import synthetic

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")


def test_light_and_dark_follow_the_system_until_the_button_is_used(browser, shown, tmp_path):
    recording = panel_of(synthetic(20, 24, 8))
    colour = "getComputedStyle(document.body).backgroundColor"
    corner = "document.querySelector('canvas').getContext('2d').getImageData(23, 0, 1, 1).data"
    pixel = f"[...{corner}].slice(0, 3).join(', ')"
    sizes = []
    for system, page_colour in (("dark", "13, 17, 23"), ("light", "255, 255, 255")):
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": system}])
        shown(recording, fragment="#forward=9")
        assert browser.run(colour) == f"rgb({page_colour})"
        assert browser.run(pixel) == page_colour  # a block that is not open yet, on the heat map too
        browser.screenshot(tmp_path / f"{system}.png")
        sizes.append((tmp_path / f"{system}.png").stat().st_size)
    browser.press("t")
    assert browser.run(colour) == "rgb(13, 17, 23)"
    assert min(sizes) > 10_000


def test_who_asks_for_less_motion_gets_one_forward_in_a_second(browser, shown):
    recording = panel_of(synthetic(8, 16, 8))
    for preference, speed in (("reduce", "1"), ("no-preference", "5")):
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": preference}])
        shown(recording)
        assert browser.run("document.getElementById('speed').value") == speed


def test_traces_side_by_side_are_at_the_same_heights_and_on_a_narrow_screen_below_each_other(browser, shown):
    long = "threshold threshold=0.5, window 4, " * 3
    one, other = synthetic(8, 16, 8), replace(synthetic(20, 16, 8), prompt="a prompt " * 40)
    shown(panel_of(one, "one"), panel_of(other, long))
    tops = (
        "['.map', '.tokens', 'dl'].map((name) => [...document.querySelectorAll(name)]"
        ".map((each) => Math.round(each.getBoundingClientRect().top)))"
    )
    assert all(left == right for left, right in browser.run(tops))
    browser.send("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    try:
        assert all(upper < lower for upper, lower in browser.run(tops))
        assert browser.run("document.documentElement.scrollWidth") <= 400
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


def test_the_history_of_a_token_at_the_bottom_is_above_it(shown):
    recording = replace(synthetic(60, 400, 100), prompt="a prompt " * 400)
    browser = shown(panel_of(recording), fragment="#forward=60")
    box = browser.run(
        "(() => { const token = [...document.querySelectorAll('.tokens .revised')].at(-1); token.tabIndex = -1; "
        "token.focus(); token.scrollIntoView({ block: 'end' }); "
        "scrollBy(0, document.getElementById('summary').offsetHeight + 10); "
        "token.blur(); token.focus({ preventScroll: true }); "
        "return ['history', 'summary'].map((id) => document.getElementById(id).getBoundingClientRect())"
        ".map(({ top, bottom }) => [top, bottom]).concat([[token.getBoundingClientRect().top]]); })()"
    )
    (top, bottom), (summary, _), (token,) = box
    assert 0 <= top < bottom <= token < summary


def test_every_control_has_a_name_and_the_masks_are_silent(shown):
    browser = shown(panel_of(synthetic(8, 16, 8)), fragment="#forward=1")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    of_role = {}
    for node in nodes:
        if not node.get("ignored"):
            of_role.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "slider", "combobox", "image", "group", "toolbar", "region", "status"):
        assert role in of_role, role
        assert role == "status" or all(of_role[role]), f"{role} without a name"
    response = browser.run("document.querySelector('[aria-label=Response]').textContent")
    assert "░" not in response

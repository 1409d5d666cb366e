"""What tests of the page ask the browser."""

from dmaxlit.viewer import Panel
from tests.viewer.recordings import texts_of


def panel_of(recording, label="one", texts=None):
    return Panel(label, {0: recording}, texts or texts_of(recording))


def shown_tokens(browser, panel=0):
    tokens = f"document.querySelectorAll('section')[{panel}].querySelectorAll('[data-position]')"
    return browser.run(f"[...{tokens}].map((span) => span.textContent)")


def wait(browser, condition):
    browser.run(f"new Promise((done) => {{ const look = () => {condition} ? done() : setTimeout(look, 10); look(); }})")


def expected_tokens(recording, forward):
    texts = texts_of(recording)
    return (
        [texts.get(token, "") for token in recording.ids[forward - 1].tolist()]
        if forward
        else [""] * recording.ids.shape[1]
    )


def forward_of(browser):
    return browser.run("Number(document.getElementById('slider').value)")

import pytest

from dmaxlit.viewer import page
from tests.viewer.chromium import chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def shown(browser, tmp_path):
    """Open a page of panels; the browser must report no error, and load nothing but the file."""
    path = tmp_path / "page.html"

    def open_page(*panels, fragment=""):
        path.write_text(page(panels, "Title"), encoding="utf-8")
        browser.open(path, fragment)
        return browser

    yield open_page
    assert browser.errors == []
    assert browser.requests == [path.as_uri()]

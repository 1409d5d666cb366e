"""One server for the tests of this folder."""

import pytest

from tests.server.running import running, tiny_module


@pytest.fixture(scope="package")
def module():
    return tiny_module()


@pytest.fixture(scope="package")
def server(module):
    with running(module) as run:
        yield run

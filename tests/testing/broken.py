"""What the tests of broken strategies and broken decoders have in common."""

import pytest

from dmaxlit.testing import ContractError


def failures(properties):
    """Return the messages of the properties that do not hold, by name."""
    found = {}
    for check in properties:
        try:
            check()
        except ContractError as error:
            found[str(check)] = str(error)
    return found


def assert_found(properties, name, message):
    """Assert that the property of that name fails, with a message of one line that contains the given one."""
    (check,) = [check for check in properties if str(check) == name]
    with pytest.raises(ContractError) as error:
        check()
    assert message in str(error.value)
    assert "\n" not in str(error.value)

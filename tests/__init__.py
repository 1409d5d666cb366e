"""Tests, in folders like those of the package."""

import gc

# Until everything is imported there is no garbage, and to look for it takes a fifth of the time. When the tests begin,
# ``conftest.py`` enables it.
gc.disable()

"""The one exception type for mistakes a user can mend, and the one category of warnings."""

__all__ = ["DMaxWarning", "UserError"]


class UserError(ValueError):
    """A setting, file or prompt that cannot be used.

    The message is one line that names the argument, what was expected and what came. The command line prints it
    as ``error: ...`` and exits with status 2; in Python it is an ordinary ``ValueError``.
    """


class DMaxWarning(UserWarning):
    """Something about the user's run that deserves a look. Every warning dmaxlit itself gives is of this class."""

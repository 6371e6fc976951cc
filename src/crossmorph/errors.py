"""The one error a user can cause."""


class InputError(ValueError):
    """Input that cannot be used: the message is one line naming what was received and what was expected.

    The command line prints the message to standard error and exits with code 2.
    """

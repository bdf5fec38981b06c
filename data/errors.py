"""Errors that the user can correct: the runners print their message of one line and exit with status 2."""


class InputError(ValueError):
    """Raised for bad input: the message says what was expected, what was found and what to do."""


class MissingError(InputError):
    """Raised if something is missing that only the user can provide, such as a data set or a weight file."""

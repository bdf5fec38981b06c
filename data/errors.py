"""Errors that a person can mend: the runners print their one line and exit with status 2."""


class InputError(ValueError):
    """Bad input: the message says what was expected, what came and what to do."""


class MissingError(InputError):
    """Something that only the user can bring is not there: a data set, a weight file."""

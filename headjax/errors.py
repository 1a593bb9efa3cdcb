"""The one error type for users' mistakes."""


class UserError(Exception):
    """A mistake that the user can mend: bad file, config, camera, mesh or checkpoint.

    The message is one sentence that names the thing, what was wrong with it and what would be
    right. The command lines print it and exit with code 2; no traceback is shown.
    """

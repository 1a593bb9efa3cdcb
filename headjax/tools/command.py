"""What every tool's command line does: help, and one sentence for a user's mistake."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from headjax.errors import UserError


def run(
    command: Callable[[list[str]], int | None], argv: Sequence[str] | None, *, help_text: str
) -> int:
    """Calls `command` with the arguments, or prints the help that they ask for.

    Args:
        command: arguments -> exit code, or None for 0.
        argv: the arguments; None for those of the process.
        help_text: what --help prints.

    Returns:
        The exit code; 2 after a user's mistake, which is told on stderr.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not {"-h", "-help", "--help"}.isdisjoint(arguments):
        print(help_text)
        return 0
    try:
        return command(arguments) or 0
    except UserError as error:
        print(f"headjax: {error}", file=sys.stderr)
        return 2


def parsed(parser: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Sets the parser's flags; returns the arguments that are no flags.

    Raises:
        UserError: an unknown flag, or a value that it cannot have.
    """
    try:
        return parser(["headjax", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0]} (--help lists all flags)") from error

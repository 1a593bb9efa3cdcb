"""Command lines, one file a verb: `python -m headjax.tools.<verb> --help`."""

"""A rendering worker: `python -m headjax.data.worker '<job as JSON>'`, started by `data.spool`.

The job is {"config": …, "folder": …, "first": w, "step": n}: it renders heads w, w + n, … into the
spool `folder`. Reports are JSON lines on standard output: {"views": n} after each few views, and
{"user_error": message} or {"errno": number} before it gives up.
"""

import json
import os
import sys
from pathlib import Path

from headjax.data.config import HeadViewsConfig
from headjax.errors import UserError


def main(job: dict) -> int:
    """Renders the job's heads; the exit code."""
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Nothing but reports may reach the pipe.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(message: dict) -> None:
        print(json.dumps(message), file=reports)

    try:
        _render_all(job, report)
    except UserError as error:
        report({"user_error": str(error)})
        return 2
    except BrokenPipeError:  # The parent is gone.
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        report({"errno": error.errno})
        return 1
    return 0


def _render_all(job: dict, report) -> None:
    from headjax.data.spool import all_heads, render_to_spool

    config = HeadViewsConfig(**job["config"])
    for identity in all_heads(config)[job["first"] :: job["step"]]:
        render_to_spool(
            config,
            identity,
            folder=Path(job["folder"]),
            on_views=lambda count: report({"views": count}),
        )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""Trains the part segmenter that judges the demos' pictures, on procedural heads of its own.

python -m headjax.tools.judge judge.safetensors
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from headjax import data
from headjax.errors import UserError
from headjax.metrics import parts
from headjax.tools import command
from headjax.train import part_judge

_HELP = """\
headjax judge: trains the part segmenter that judges the pictures of the demos.

usage: python -m headjax.tools.judge OUT.safetensors [flags]

  OUT.safetensors     where it is written, for --config.weights.judge of eg3d, panohead, head3d
  --data_dir=FOLDER   keep its heads there; a temporary folder by default
  --steps=N           of the training, 1800 by default
  --overwrite         replace what is there

It learns from 320 procedural heads that no generator is shown, in about six minutes on two CPU
cores, and is measured on 48 more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code (2 after a user's mistake)."""
    return command.run(_judge, argv, help_text=_HELP)


def _judge(arguments: list[str]) -> None:
    parser = flags.FlagValues()
    flags.DEFINE_string("data_dir", "", "", flag_values=parser)
    flags.DEFINE_integer("steps", part_judge.JudgeSettings().steps, "", flag_values=parser)
    flags.DEFINE_bool("overwrite", False, "", flag_values=parser)
    rest = command.parsed(parser, arguments)
    if len(rest) != 1 or not rest[0].endswith(".safetensors"):
        raise UserError(f"one OUT.safetensors was expected, not {' '.join(rest) or 'none'}")
    output = Path(rest[0])
    if output.exists() and not parser.overwrite:
        raise UserError(f"{output} is already there; give another name or --overwrite")
    if parser.steps < 1:
        raise UserError(f"--steps is {parser.steps}; it must be at least 1")
    with _folder(parser.data_dir) as folder:
        _train(output, folder, parser.steps)


@contextlib.contextmanager
def _folder(given: str) -> Iterator[Path]:
    """The user's folder, or one that is gone afterwards."""
    if given:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="headjax-judge-") as name:
        yield Path(name)


def _train(output: Path, folder: Path, steps: int) -> None:
    with tqdm(desc="heads", unit="view") as bar:

        def shown(state: data.Progress) -> None:
            bar.total, bar.n = state.total, state.done
            bar.refresh()

        data.prepare(part_judge.VIEWS, folder, progress=shown)
    settings = part_judge.JudgeSettings(steps=steps)
    with tqdm(desc="training", unit="step", total=steps) as bar:
        source = part_judge.pictures(folder)
        judge = part_judge.train_judge(source, settings=settings, progress=bar.update)
    unseen = part_judge.pictures(folder, (part_judge.UNSEEN,))
    told = parts.labels_of(judge, unseen.images / 127.5 - 1.0)
    overlap = parts.class_overlap(told, unseen.labels)
    scores = {"miou": overlap.mean(), "miou_facial": overlap.mean(parts.FACIAL)}
    part_judge.save_judge(output, judge, metadata={"steps": steps} | scores)
    print(
        f"headjax: wrote {output}; mIoU on unseen heads {scores['miou']:.3f}, of brows, eyes, nose "
        f"and mouth {scores['miou_facial']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())

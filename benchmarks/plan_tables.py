"""Puts the plans of Gaussian3Diff at paper scale into docs/pods.md, from the JSON beside this.

  python benchmarks/plan_tables.py            # writes the tables between their markers
  python benchmarks/plan_tables.py --commands # prints the commands that make the plans

A plan is made by `headjax.tools.plan`, here or on any machine with libtpu; minutes each. Every
topology has 6 images or 2,430 rays a chip: the papers' batches (96 images, 30 patches of 36² rays)
on 16 chips.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headjax.train.planning import report, topology

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pods.md"
RESULTS = ROOT / "benchmarks" / "results"
# Rows of the batch for 16 chips.
STAGES = {"diffusion": 96, "autodecoder": 30}
SLICES = ("v5e:4x4", "v5e:16x16", "v6e:4x4", "v5p:2x2x4")
GROWTH = ("v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16")
_MARKED = re.compile(r"(<!-- plan: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def batch_of(stage, where):
    """Rows of the whole batch that give every chip the same work on any topology."""
    return STAGES[stage] * topology.parse(where).chips // 16


def file_of(stage, where):
    """Where a plan is kept."""
    return RESULTS / f"plan_{stage}_{where.replace(':', '_')}.json"


def commands():
    """The commands that make every plan, those of the tables first."""
    wanted = dict.fromkeys((*SLICES, *GROWTH))
    return [
        f"python -m headjax.tools.plan --config=configs/g3diff.py:paper --topology={where} "
        f"--stage={stage} --batch={batch_of(stage, where)} "
        f"--output={file_of(stage, where).relative_to(ROOT)}"
        for where in wanted
        for stage in STAGES
    ]


def plans(stage, wheres):
    """The plans that were made, in the order asked for."""
    files = [file_of(stage, where) for where in wheres]
    return [json.loads(file.read_text())["plans"][0] for file in files if file.exists()]


def filled(page):
    """The page with its tables made anew."""

    def table(found):
        growing = found[2] == "growth"
        made = plans(found[3], GROWTH if growing else SLICES)
        text = (report.growth if growing else report.table)(made) if made else "Not made yet."
        return f"{found[1]}{text}\n{found[4]}"

    return _MARKED.sub(table, page)


def main():
    if "--commands" in sys.argv[1:]:
        print("\n".join(commands()))
    else:
        PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()

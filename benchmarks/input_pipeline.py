"""Examples a second that the input pipeline loads on this machine's processor.

  python benchmarks/input_pipeline.py                  # about two minutes on two cores
  python benchmarks/input_pipeline.py --need=375,160   # also the ratios to what training needs,
                                                       # if a step's parts overlap, and if not
  python benchmarks/input_pipeline.py --output=FILE    # also writes JSON

The data is the package's own heads at 64², as Gaussian3Diff's auto-decoder takes them: batches of
30 views in random order, nothing cached but by the system. `array_record` reads a prepared set with
the fields of the auto-decoder's batch; `zip` reads archives in EG3D's form, pictures and masks as
PNG and depth as .npy (the format has neither part labels nor UV maps), `zip_png16` has 16-bit PNGs
for depth. Beside them PNGs of 512²: rendered ones, and the same with the noise of a photograph.

Batches are read by one thread, by two, or (those of 64²) by two processes. A rate is the median of
several runs, all readers taking turns. Other programs take their share of it, so the processor's
own microseconds an example are given, too, those of the reading processes included.
"""

import argparse
import io
import json
import math
import os
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import device_name, environment, tell
from headjax import data
from headjax.io.images import encode_png

SMALL, LARGE = 64, 512
BATCH, LARGE_BATCH = 30, 6
# How batches are read, by name.
WAYS = {
    "threads=1": {"threads": 1, "prefetch": 2},
    "threads=2": {"threads": 2, "prefetch": 2},
    "workers=2": {"workers": 2, "prefetch": 4},
}
# The readers of 64² views, on which the bar is; the others are not read by processes.
NEEDED = ("array_record", "zip", "zip_png16")
NEEDS = ("parts_overlap", "nothing_overlaps")
FIELDS = ("image", "depth", "mask", "parts", "camera", "identity", "uv_positions", "uv_valid")
ZIP_FIELDS = ("image", "depth", "mask", "camera")
BAR = 4.0  # Times what training needs.


def prepared(folder, *, resolution, heads, views):
    """A prepared set of training views."""
    config = data.HeadViewsConfig(
        train_identities=heads,
        val_identities=0,
        train_views=views,
        val_views=0,
        resolution=resolution,
        supersample=1 if resolution > SMALL else 3,
        uv_size=32,
    )
    data.prepare(config, folder)
    return data.load_split(folder, "train", cache=False)


def npy(record):
    """A depth map as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, record["depth"])
    return buffer.getvalue()


def png16(record):
    """A depth map in thousandths as a PNG of 16 bits."""
    buffer = io.BytesIO()
    depth = np.rint(record["depth"][..., 0] * 1000).astype(np.uint16)
    Image.fromarray(depth).save(buffer, "png")
    return buffer.getvalue()


def noisy(record):
    """A picture with the noise of a photograph."""
    noise = np.random.default_rng(int(record["view"])).normal(0, 2, record["image"].shape)
    return encode_png(np.clip(record["image"] + noise, 0, 255).astype(np.uint8))


def pack(path, source, encode, *, ending, labels=False):
    """An archive of one stored file a record."""
    names = [f"{i // 1000:05}/img{i:08}" for i in range(len(source))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in zip(names, source, strict=True):
            archive.writestr(f"{name}.{ending}", encode(record))
        if labels:
            cameras = [record["camera"].tolist() for record in source]
            stated = [[f"{n}.{ending}", c] for n, c in zip(names, cameras, strict=True)]
            archive.writestr("dataset.json", json.dumps({"labels": stated}))
    return path


def sources(folder):
    """Every reader's source, fields and batch size, by name."""
    small = prepared(folder / "small", resolution=SMALL, heads=6, views=48)
    large = prepared(folder / "large", resolution=LARGE, heads=3, views=10)

    def image(record):
        return encode_png(record["image"])

    def mask(record):
        return encode_png(record["mask"])

    images = pack(folder / "images.zip", small, image, ending="png", labels=True)
    masks = pack(folder / "masks.zip", small, mask, ending="png")
    depths = pack(folder / "depths.zip", small, npy, ending="npy")
    depths16 = pack(folder / "depths16.zip", small, png16, ending="png")
    rendered = pack(folder / "rendered.zip", large, image, ending="png", labels=True)
    photos = pack(folder / "photos.zip", large, noisy, ending="png", labels=True)
    picture = ("image", "camera")
    return {
        "array_record": (small, FIELDS, BATCH),
        "zip": (data.Eg3dDataset(images, masks=masks, depths=depths), ZIP_FIELDS, BATCH),
        "zip_png16": (data.Eg3dDataset(images, masks=masks, depths=depths16), ZIP_FIELDS, BATCH),
        "array_record_512": (large, picture, LARGE_BATCH),
        "zip_512_rendered": (data.Eg3dDataset(rendered), picture, LARGE_BATCH),
        "zip_512_photograph": (data.Eg3dDataset(photos), picture, LARGE_BATCH),
    }


def worked(processes=()):
    """The processor's seconds of this process and others; NaN where these are not told."""
    seconds = time.process_time()
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return math.nan
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def one_run(iterator, *, seconds):
    """Examples a second, and the processor's microseconds an example."""
    processes = getattr(iterator, "processes", ())
    for _ in range(6):  # What was read before is no part of it.
        next(iterator)
    began, before, examples = time.perf_counter(), worked(processes), 0
    while not examples or time.perf_counter() - began < seconds:
        examples += len(next(iterator)["camera"])
    passed, work = time.perf_counter() - began, worked(processes) - before
    return examples / passed, 1e6 * work / examples


def measure(readers, *, runs, seconds):
    """Rates of every reader, read in every way: medians of runs that take turns."""
    iterators = {
        (name, way): data.batches(source, batch_size=size, seed=0, fields=fields, **WAYS[way])
        for name, (source, fields, size) in readers.items()
        for way in WAYS
        if name in NEEDED or "workers" not in WAYS[way]
    }
    seen = {key: [] for key in iterators}
    for _ in range(runs):
        for key, iterator in iterators.items():
            seen[key].append(one_run(iterator, seconds=seconds))
    rows = {name: {} for name in readers}
    for (name, way), found in seen.items():
        rate, work = (statistics.median(values) for values in zip(*found, strict=True))
        rows[name][way] = {
            "examples_per_second": round(rate, 1),
            "cpu_us_per_example": None if math.isnan(work) else round(work, 1),
        }
    return rows


def ratios(rows, need):
    """How many times over each reader of 64² views gives what training needs, at its best."""
    best = {name: max(row["examples_per_second"] for row in rows[name].values()) for name in NEEDED}
    times = {name: round(rate / need, 2) for name, rate in best.items()}
    return {
        "examples_per_second": need,
        "times_over": times,
        "at_least": BAR,
        "holds": all(value >= BAR for value in times.values()),
    }


def needs(text):
    """One or two numbers above 0, with commas between."""
    values = [float(part) for part in text.split(",")]
    if not 1 <= len(values) <= len(NEEDS) or min(values) <= 0:
        raise ValueError(text)
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--need",
        type=needs,
        default=[],
        help="examples a second that a host needs by the plan, if everything overlaps, and perhaps "
        "a second number, if nothing does",
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a run")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(sources(Path(folder)), runs=arguments.runs, seconds=arguments.seconds)
    report = {
        **environment(),
        "processor": device_name(jax.devices("cpu")[0]),
        "batch": BATCH,
        "batch_512": LARGE_BATCH,
        "runs": arguments.runs,
        "load_average": round(os.getloadavg()[0], 1),
        "readers": rows,
    }
    if arguments.need:
        pairs = zip(NEEDS, arguments.need, strict=False)
        report["need"] = {name: ratios(rows, need) for name, need in pairs}
    tell(report, arguments.output)


if __name__ == "__main__":
    main()

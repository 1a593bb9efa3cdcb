"""The data sheet: a picture of what a data set holds."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from headjax.data.records import Record, RecordSource
from headjax.geometry.cameras import camera_from_label
from headjax.io.colormaps import colorize_depth
from headjax.render.parts import PART_COLORS, PART_NAMES

# Degrees of yaw that a row shows, where the data set has views near them.
YAWS = (0, 45, 90, 180, -90, -45)

_GAP = 4
_MARGIN = 16
_INK = (40, 40, 46)
_FAINT = (120, 120, 128)


def sheet_rows(
    source: RecordSource, *, identities: int = 8, yaws: Sequence[float | int] = YAWS
) -> list[list[Record]]:
    """Records for a sheet: evenly chosen identities, for each the views nearest to `yaws`."""
    known = np.unique(source.identities)
    chosen = known[np.linspace(0, len(known) - 1, min(identities, len(known))).astype(int)]
    return [_nearest_views(source, int(identity), yaws) for identity in chosen]


def _nearest_views(
    source: RecordSource, identity: int, yaws: Sequence[float | int]
) -> list[Record]:
    records = [source[int(index)] for index in np.flatnonzero(source.identities == identity)]
    positions = np.stack([camera_from_label(record["camera"]).position for record in records])
    directions = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    angles = np.deg2rad(np.asarray(yaws, dtype=np.float64))
    wanted = np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)], axis=1)
    likeness = wanted @ directions.T
    chosen = []
    for row in likeness:
        chosen.append(int(np.argmax(row)))
        if len(chosen) < len(records):  # A view is shown twice only if there is no other left.
            likeness[:, chosen[-1]] = -np.inf
    return [records[index] for index in chosen]


def data_sheet(
    rows: Sequence[Sequence[Record]],
    *,
    title: str = "",
    part_names: Sequence[str] = PART_NAMES,
    cell: int = 128,
) -> UInt8[np.ndarray, "h w 3"]:
    """Identities by rows; by columns their views, then mask, depth and parts of the first two.

    Args:
        rows: one list of records per identity, all of the same length; see `sheet_rows`.
        title: a line at the top.
        part_names: names of the part labels, for the legend.
        cell: pixels of a picture's side on the sheet.
    """
    cells = [_row_cells(row) for row in rows]
    left, top, step = _MARGIN + 34, _MARGIN + 36, cell + _GAP
    legend_top = top + len(cells) * step + 10
    width = left + max(map(len, cells)) * step + _MARGIN
    lines = _legend_lines(part_names, rows, width - left - _MARGIN)
    height = legend_top + 22 * len(lines) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=ImageFont.load_default(17))
    for number, (row, records) in enumerate(zip(cells, rows, strict=True)):
        y = top + number * step
        name = f"{int(records[0].get('identity', number))}"
        draw.text((left - 8, y + cell // 2), name, fill=_FAINT, font=font, anchor="rm")
        for column, (caption, picture) in enumerate(row):
            sheet.paste(_scaled(picture, cell), (left + column * step, y))
            place = (left + column * step + 4, y + 2)
            draw.text(place, caption, fill=_FAINT, font=ImageFont.load_default(11))
    _draw_legend(draw, lines, left=left, top=legend_top, font=font)
    return np.asarray(sheet)


def _row_cells(records: Sequence[Record]) -> list[tuple[str, np.ndarray]]:
    """A row's pictures with their captions."""
    cells = [(_view_name(record), record["image"]) for record in records]
    for record in records[:2]:
        if "mask" in record:
            cells.append(("mask", np.repeat(255 - record["mask"], 3, axis=-1)))
        if "depth" in record:
            cells.append(("depth", colorize_depth(record["depth"][..., 0])))
        if "parts" in record:
            cells.append(("parts", np.array(PART_COLORS, np.uint8)[record["parts"][..., 0]]))
    return cells


def _view_name(record: Record) -> str:
    """The view's yaw in words, to the nearest 5°."""
    if "camera" not in record:
        return ""
    x, _, z = (float(value) for value in camera_from_label(record["camera"]).position)
    yaw = 5 * round(np.rad2deg(np.arctan2(x, z)) / 5)
    return {0: "front", 180: "back", -180: "back"}.get(yaw, f"{yaw:+d}°")


def _scaled(picture: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(picture)
    grow = Image.Resampling.NEAREST if cell % image.width == 0 else Image.Resampling.BICUBIC
    return image.resize((cell, cell), grow if cell > image.width else Image.Resampling.BOX)


def _legend_lines(
    part_names: Sequence[str], rows: Sequence[Sequence[Record]], width: int
) -> list[list[tuple[str, tuple[int, int, int]]]]:
    """The parts that occur, with their colours, in lines of at most `width` pixels."""
    pictured = [record["parts"] for row in rows for record in row[:2] if "parts" in record]
    present = np.unique(np.concatenate([parts.ravel() for parts in pictured])) if pictured else []
    entries = [(part_names[label], PART_COLORS[label]) for label in present if label]
    per_line = max(1, width // 100)
    return [entries[start : start + per_line] for start in range(0, len(entries), per_line)]


def _draw_legend(draw: ImageDraw.ImageDraw, lines: list, *, left: int, top: int, font) -> None:
    for row, line in enumerate(lines):
        for column, (name, color) in enumerate(line):
            x, y = left + 100 * column, top + 22 * row
            draw.rounded_rectangle((x, y, x + 14, y + 14), radius=3, fill=color)
            draw.text((x + 20, y + 7), name, fill=_INK, font=font, anchor="lm")

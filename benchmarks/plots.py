"""Line plots with logarithmic axes, by Pillow alone: pictures for the benchmarks' pages."""

import dataclasses
import math

from PIL import Image, ImageDraw, ImageFont

# Colours that stay apart for colour-blind readers (Okabe and Ito), and on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 52
# Drawn larger and made smaller: Pillow's lines are jagged.
FINE = 3


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: names of its axes, and its lines by name, each a list of (x, y) above zero."""

    across: str
    up: str
    lines: dict[str, list[tuple[float, float]]]


def _font(size):
    return ImageFont.load_default(size=size * FINE)


def _ticks(low, high):
    """1, 2, 5 times powers of ten within the range; powers alone where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    return [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]


def _short(value):
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


class _Axis:
    """Values along one logarithmic axis as pixels."""

    def __init__(self, values, first, last, *, room):
        self.low, self.high = min(values) / room, max(values) * room
        self.first, self.last = first, last

    def __call__(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + share * (self.last - self.first)


def _axes(paint, panel, x, y, corner):
    left, top = corner
    box = [(left + LEFT) * FINE, (top + TOP) * FINE,
           (left + WIDTH - RIGHT) * FINE, (top + HEIGHT - BOTTOM) * FINE]  # fmt: skip
    small, plain = _font(12), _font(13)
    for value in _ticks(y.low, y.high):
        paint.line([box[0], y(value), box[2], y(value)], fill="#e3e3e3", width=FINE)
        paint.text((box[0] - 6 * FINE, y(value)), _short(value), "#444", small, "rm")
    for value in sorted({v for line in panel.lines.values() for v, _ in line}):
        paint.line([x(value), box[3], x(value), box[3] + 4 * FINE], fill="#444", width=FINE)
        paint.text((x(value), box[3] + 7 * FINE), f"{value:,}", "#444", small, "ma")
    paint.line([box[0], box[1], box[0], box[3], box[2], box[3]], fill="#444", width=FINE)
    middle = (box[0] + box[2]) / 2
    paint.text((middle, box[3] + 27 * FINE), panel.across, "#222", plain, "ma")
    paint.text((box[0] - 50 * FINE, box[1] - 8 * FINE), panel.up, "#222", plain, "ls")


def _lines(paint, panel, x, y, color):
    # The first are the widest: what lies exactly on them leaves them visible.
    for i, (name, line) in enumerate(panel.lines.items()):
        width = FINE * max(2, 5 - i)
        places = [(x(a), y(b)) for a, b in line]
        paint.line(places, fill=color[name], width=width, joint="curve")
        for a, b in places:
            r = width + 2 * FINE
            paint.ellipse([a - r, b - r, a + r, b + r], fill=color[name])


def _legend(paint, color, top):
    left = LEFT
    for name, shade in color.items():
        paint.line([left * FINE, top * FINE, (left + 24) * FINE, top * FINE], shade, 3 * FINE)
        paint.text(((left + 30) * FINE, top * FINE), name, "#222", _font(14), "lm")
        left += 54 + round(paint.textlength(name, _font(14)) / FINE)


def draw(panels, path, *, columns, title):
    """Writes a PNG: panels in rows, a title above, one legend for all."""
    panels = [p for p in panels if p.lines]
    names = dict.fromkeys(name for p in panels for name in p.lines)
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    size = WIDTH * columns, 60 + HEIGHT * -(-len(panels) // columns)
    picture = Image.new("RGB", (size[0] * FINE, size[1] * FINE), "white")
    paint = ImageDraw.Draw(picture)
    paint.text((LEFT * FINE, 18 * FINE), title, "#222", _font(16), "lm")
    _legend(paint, color, 46)
    for i, panel in enumerate(panels):
        left, top = WIDTH * (i % columns), 60 + HEIGHT * (i // columns)
        across = [a for line in panel.lines.values() for a, _ in line]
        up = [b for line in panel.lines.values() for _, b in line]
        x = _Axis(across, (left + LEFT) * FINE, (left + WIDTH - RIGHT) * FINE, room=1.08)
        y = _Axis(up, (top + HEIGHT - BOTTOM) * FINE, (top + TOP) * FINE, room=1.25)
        _axes(paint, panel, x, y, (left, top))
        _lines(paint, panel, x, y, color)
    picture.resize(size, Image.Resampling.LANCZOS).save(path, optimize=True)

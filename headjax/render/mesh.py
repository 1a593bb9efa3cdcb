"""Pictures of meshes: colour, depth, coverage, normals, UV and part labels, on the host.

`render_scene` finds the visible samples on a grid `supersample` times as fine as the picture
(`raster`), shades those alone (`shading`) and averages. `rasterize` is the layer below.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from headjax.errors import UserError
from headjax.geometry.cameras import Camera
from headjax.geometry.meshes import vertex_normals
from headjax.geometry.rays import pixel_grid, rays_through
from headjax.render.raster import Fragments, Visible, rasterize, visible_samples
from headjax.render.shading import Lamp, Light, shade, to_display, to_linear

__all__ = [
    "Fragments",
    "Lamp",
    "Light",
    "Scene",
    "Surface",
    "View",
    "rasterize",
    "render_scene",
    "render_views",
    "sample_texture",
]


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh with its looks.

    Attributes:
        vertices: [v, 3] in the world.
        faces: [f, 3], counter-clockwise seen from outside.
        albedo: [v, 3] displayed colours in [0, 1] per vertex; or None if there is a texture.
        texture: [h, w, 3] displayed colours in [0, 1], row 0 at v = 1; needs uvs and uv_faces.
        uvs: [t, 2], v up.
        uv_faces: [f, 3].
        part: label of all faces, or [f] uint8 per face (ids of `render.parts`).
        part_texture: [h, w] uint8 labels by uv, nearest; overrides `part`.
        specular: strength of highlights, one number or [v].
        shininess: exponent of highlights; about 10 for skin, 200 for a wet eye.
        normals: [v, 3] unit normals; computed from the faces if None.
        occlusion: [v] ambient light that arrives, 0..1; 1 if None.
        closed: the inner side is never seen, so faces that show it are not drawn.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    albedo: Float[np.ndarray, "v 3"] | None = None
    texture: Float[np.ndarray, "h w 3"] | None = None
    uvs: Float[np.ndarray, "t 2"] | None = None
    uv_faces: Int[np.ndarray, "f 3"] | None = None
    part: int | Integer[np.ndarray, "f"] = 1
    part_texture: UInt8[np.ndarray, "ph pw"] | None = None
    specular: float | int | Float[np.ndarray, "v"] = 0.0
    shininess: float | int = 12.0
    normals: Float[np.ndarray, "v 3"] | None = None
    occlusion: Float[np.ndarray, "v"] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        mapped = self.uvs is not None and self.uv_faces is not None
        if (self.albedo is None) == (self.texture is None):
            raise UserError("a Surface needs either albedo per vertex or a texture, one of the two")
        if not mapped and (self.texture is not None or self.part_texture is not None):
            raise UserError("a Surface with a texture needs uvs and uv_faces as well")


@dataclass(frozen=True, eq=False)
class Scene:
    """Surfaces in one light."""

    surfaces: tuple[Surface, ...]
    light: Light = field(default_factory=Light)


@dataclass(frozen=True, eq=False)
class View:
    """A picture, or a batch of pictures with leading axes.

    Where coverage is below ½, everything but `color` and `mask` is 0 (`surface` −1).

    Attributes:
        color: [h, w, 3] float32 in [0, 1], on white by coverage.
        depth: [h, w] float32 along the ray, world units.
        mask: [h, w] float32, coverage 0..1.
        normals: [h, w, 3] float32, unit length, in the world, towards the camera.
        uv: [h, w, 2] float32, v up; 0 on surfaces without UV.
        parts: [h, w] uint8, ids of `render.parts`.
        surface: [h, w] int8, index into the scene's surfaces.
    """

    color: Float[np.ndarray, "*b h w 3"]
    depth: Float[np.ndarray, "*b h w"]
    mask: Float[np.ndarray, "*b h w"]
    normals: Float[np.ndarray, "*b h w 3"]
    uv: Float[np.ndarray, "*b h w 2"]
    parts: UInt8[np.ndarray, "*b h w"]
    surface: Int[np.ndarray, "*b h w"]


class _Soup(NamedTuple):
    """A scene's surfaces as one list of triangles.

    `corner` holds per vertex: normal 3, linear albedo 3, occlusion 1, specular 1, position 3.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    corner: Float[np.ndarray, "v 11"]
    surface: Int[np.ndarray, "f"]
    part: UInt8[np.ndarray, "f"]
    shininess: Float[np.ndarray, "f"]
    one_sided: Bool[np.ndarray, "f"]
    first_face: Int[np.ndarray, "s"]


class _Samples(NamedTuple):
    """What is known of each visible sample."""

    color: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    points: Float[np.ndarray, "n 3"]
    uv: Float[np.ndarray, "n 2"]
    part: UInt8[np.ndarray, "n"]
    surface: Int[np.ndarray, "n"]


def render_scene(scene: Scene, camera: Camera, *, resolution: int, supersample: int = 2) -> View:
    """One picture of a scene.

    Colour and mask are averages over the supersample² samples of a pixel. The other channels come
    from one sample: of those with the label that most bear, the one next to the pixel's centre,
    the nearest if several are. Its depth is carried along its tangent plane to the centre.

    Args:
        camera: one camera, without batch axes.
        resolution: the picture is resolution × resolution.
        supersample: samples per pixel and axis.
    """
    return _render(_soup(scene), scene, camera, resolution, supersample)


def render_views(scene: Scene, cameras: Camera, *, resolution: int, supersample: int = 2) -> View:
    """Pictures of a scene from a batch of cameras [n]; every channel gets that leading axis."""
    soup = _soup(scene)
    views = [
        _render(soup, scene, cameras[index], resolution, supersample)
        for index in range(len(cameras.cam2world))
    ]
    names = View.__dataclass_fields__
    return View(**{name: np.stack([getattr(view, name) for view in views]) for name in names})


def sample_texture(
    texture: Float[np.ndarray, "h w c"], uv: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n c"]:
    """Bilinear lookup, texel centres at (j + ½)/w, v up, edges clamped."""
    height, width = texture.shape[:2]
    x = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    x0 = np.minimum(x.astype(np.int32), max(width - 2, 0))
    y0 = np.minimum(y.astype(np.int32), max(height - 2, 0))
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    flat = texture.reshape(height * width, -1)
    base = y0 * width + x0
    right, down = min(width - 1, 1), width * min(height - 1, 1)
    top = flat[base] * (1 - fx) + flat[base + right] * fx
    bottom = flat[base + down] * (1 - fx) + flat[base + down + right] * fx
    return top * (1 - fy) + bottom * fy


def _soup(scene: Scene) -> _Soup:
    surfaces = scene.surfaces
    counts = [len(surface.vertices) for surface in surfaces]
    sizes = [len(surface.faces) for surface in surfaces]
    starts = np.cumsum([0, *counts[:-1]])
    index = np.repeat(np.arange(len(surfaces)), sizes)
    return _Soup(
        vertices=np.concatenate([s.vertices for s in surfaces]).astype(np.float32),
        faces=np.concatenate([s.faces + n for s, n in zip(surfaces, starts, strict=True)]),
        corner=np.concatenate([_corner(surface) for surface in surfaces]),
        surface=index,
        part=np.concatenate(
            [np.broadcast_to(s.part, len(s.faces)).astype(np.uint8) for s in surfaces]
        ),
        shininess=np.asarray([s.shininess for s in surfaces], dtype=np.float32)[index],
        one_sided=np.asarray([s.closed for s in surfaces])[index],
        first_face=np.cumsum([0, *sizes[:-1]]),
    )


def _corner(surface: Surface) -> Float[np.ndarray, "v 11"]:
    """The attributes of `_Soup.corner` for one surface."""
    count = len(surface.vertices)
    normals = surface.normals
    if normals is None:
        normals = vertex_normals(surface.vertices, surface.faces)
    albedo = np.ones((count, 3)) if surface.albedo is None else to_linear(surface.albedo)
    occlusion = np.ones(count) if surface.occlusion is None else surface.occlusion
    specular = np.broadcast_to(np.asarray(surface.specular), count)
    columns = [normals, albedo, occlusion[:, None], specular[:, None], surface.vertices]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _render(soup: _Soup, scene: Scene, camera: Camera, resolution: int, supersample: int) -> View:
    fine = resolution * supersample
    visible = visible_samples(
        soup.vertices, soup.faces, camera, resolution=fine, one_sided=soup.one_sided
    )
    samples = _shade_samples(soup, scene, camera, visible)
    return _resolve(visible, samples, camera, resolution, supersample)


def _shade_samples(soup: _Soup, scene: Scene, camera: Camera, visible: Visible) -> _Samples:
    corner = _interpolate(soup.corner, soup.faces[visible.face], visible.barycentric)
    normals, albedo, points = corner[:, :3], corner[:, 3:6], corner[:, 8:]
    normals = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + np.float32(1e-12))
    normals[visible.back] *= -1
    surface, part = soup.surface[visible.face], soup.part[visible.face]
    uv = np.zeros((len(part), 2), dtype=np.float32)
    for index, item in enumerate(scene.surfaces):
        if item.uvs is None or item.uv_faces is None:
            continue
        here = np.flatnonzero(surface == index)
        face = visible.face[here] - soup.first_face[index]
        uv[here] = _interpolate(item.uvs, item.uv_faces[face], visible.barycentric[here])
        if item.texture is not None:
            albedo[here] = to_linear(sample_texture(item.texture, uv[here]))
        if item.part_texture is not None:
            part[here] = _nearest_texel(item.part_texture, uv[here])
    views = np.asarray(camera.position, dtype=np.float32) - points
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    color = shade(
        scene.light,
        albedo=albedo,
        normals=normals,
        views=views,
        occlusion=corner[:, 6],
        specular=corner[:, 7],
        shininess=soup.shininess[visible.face],
    )
    return _Samples(to_display(color), normals, points, uv, part, surface)


def _interpolate(
    values: Float[np.ndarray, "v c"],
    corners: Int[np.ndarray, "n 3"],
    barycentric: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n c"]:
    out = values[corners[:, 0]] * barycentric[:, :1]
    out += values[corners[:, 1]] * barycentric[:, 1:2]
    out += values[corners[:, 2]] * barycentric[:, 2:]
    return out


def _nearest_texel(
    texture: UInt8[np.ndarray, "h w"], uv: Float[np.ndarray, "n 2"]
) -> UInt8[np.ndarray, "n"]:
    height, width = texture.shape
    column = np.clip((uv[:, 0] * width).astype(np.int64), 0, width - 1)
    row = np.clip(((1 - uv[:, 1]) * height).astype(np.int64), 0, height - 1)
    return texture[row, column]


def _resolve(
    visible: Visible, samples: _Samples, camera: Camera, resolution: int, supersample: int
) -> View:
    """Samples to pixels, as `render_scene` describes."""
    per_pixel = supersample * supersample
    pixel, slot = _slots(visible.sample, resolution, supersample)
    touched, row = np.unique(pixel, return_inverse=True)
    table = np.full((len(touched), per_pixel), -1, dtype=np.int64)  # Sample number or −1.
    table[row, slot] = np.arange(len(pixel))

    count = np.bincount(pixel, minlength=resolution**2)[:, None]
    color = np.stack(
        [np.bincount(pixel, channel, minlength=resolution**2) for channel in samples.color.T],
        axis=1,
    )
    color = (color + (per_pixel - count)) / per_pixel
    mask = (count[:, 0] / per_pixel).astype(np.float32)

    solid = mask[touched] >= 0.5
    winner, nearest, farthest = _vote(table[solid], samples.part, visible.depth, supersample)
    depth = _depth_at_centre(samples, winner, camera, touched[solid], resolution)
    spread = _Spread(touched[solid], resolution)
    return View(
        color=color.astype(np.float32).reshape(resolution, resolution, 3),
        depth=spread(np.clip(depth, nearest, farthest)),
        mask=mask.reshape(resolution, resolution),
        normals=spread(samples.normals[winner]),
        uv=spread(samples.uv[winner]),
        parts=spread(samples.part[winner]),
        surface=spread(samples.surface[winner].astype(np.int8), fill=-1),
    )


def _vote(
    table: Int[np.ndarray, "p s"],
    part: UInt8[np.ndarray, "n"],
    depth: Float[np.ndarray, "n"],
    supersample: int,
) -> tuple[Int[np.ndarray, "p"], Float[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    """The sample that speaks for each pixel, and the range of depths with its label.

    Args:
        table: per pixel the numbers of its samples, −1 where nothing is seen.
    """
    covered = table >= 0
    labels = np.where(covered, part[table], 255)
    votes = ((labels[:, :, None] == labels[:, None, :]) & covered[:, None, :]).sum(axis=2)
    most = np.where(covered, votes, 0).max(axis=1, keepdims=True)
    depths = np.where(covered, depth[table], np.float32(np.inf))
    offset = np.arange(supersample) - (supersample - 1) / 2
    central = np.round(offset[:, None] ** 2 + offset**2, 2).reshape(-1)
    # Depths are far below 1e6: the distance from the centre decides, depth between equals.
    order = np.where(covered & (votes == most), depths + 1e6 * central, np.inf)
    best = np.argmin(order, axis=1)[:, None]
    same = labels == np.take_along_axis(labels, best, axis=1)
    nearest = np.where(same, depths, np.inf).min(axis=1, initial=np.inf)
    farthest = np.where(same, depths, -np.inf).max(axis=1, initial=-np.inf)
    return np.take_along_axis(table, best, axis=1)[:, 0], nearest, farthest


def _depth_at_centre(
    samples: _Samples,
    winner: Int[np.ndarray, "p"],
    camera: Camera,
    pixel: Int[np.ndarray, "p"],
    resolution: int,
) -> Float[np.ndarray, "p"]:
    """Where the ray through the pixel's centre meets the tangent plane of its sample."""
    origins, directions = rays_through(camera, pixel_grid(resolution)[pixel])
    normals, points = samples.normals[winner], samples.points[winner]
    origins, directions = np.asarray(origins), np.asarray(directions)
    slope = np.einsum("pc,pc->p", normals, directions)
    slope = np.where(np.abs(slope) < 1e-6, -1e-6, slope)
    return (np.einsum("pc,pc->p", normals, points - origins) / slope).astype(np.float32)


class _Spread(NamedTuple):
    """Writes values of some pixels into a picture."""

    pixels: Int[np.ndarray, "n"]
    resolution: int

    def __call__(self, values: np.ndarray, fill: int = 0) -> np.ndarray:
        out = np.full((self.resolution**2, *values.shape[1:]), fill, dtype=values.dtype)
        out[self.pixels] = values
        return out.reshape(self.resolution, self.resolution, *values.shape[1:])


def _slots(
    sample: Int[np.ndarray, "n"], resolution: int, supersample: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The pixel of each sample, and its number within the pixel."""
    y, x = np.divmod(sample, resolution * supersample)
    pixel = (y // supersample) * resolution + x // supersample
    return pixel, (y % supersample) * supersample + x % supersample

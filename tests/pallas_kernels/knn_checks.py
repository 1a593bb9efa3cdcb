"""What K-nearest blending is judged by: float64, with the neighbours that were chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.knn_blend import GaussianTable, knn_blend
from pallas_kernels.knn_blend.naive import blend_chosen, patches_of

_FLOATS = ("centers", "rotations", "radii")


def split(inputs):
    """What has a gradient, by name, and which Gaussians are valid."""
    points, table, atlas = inputs
    floats = {name: getattr(table, name) for name in _FLOATS}
    return {"points": points, "atlas": atlas} | floats, table.valid


def joined(floats, valid):
    """The inverse of `split`."""
    table = GaussianTable(**{name: floats[name] for name in _FLOATS}, valid=valid)
    return floats["points"], table, floats["atlas"]


def probes(spec, seed=1):
    """Random cotangents of features and Σ g."""
    keys = jax.random.split(jax.random.key(seed))
    shape = (spec.heads, spec.points)
    return jax.random.normal(keys[0], (*shape, spec.channels)), jax.random.normal(keys[1], shape)


@functools.partial(jax.jit, static_argnames=("blend", "options"))
def run(inputs, cotangents, *, blend=knn_blend, options):
    """Features, Σ g, ids; and the gradients of Σ cotangents · outputs, by name."""
    floats, valid = split(inputs)

    def objective(floats):
        points, table, atlas = joined(floats, valid)
        outputs = blend(points, table, atlas=atlas, options=options)
        return sum(jnp.sum(o * p) for o, p in zip(outputs[:2], cotangents, strict=True)), outputs

    gradients, outputs = jax.grad(objective, has_aux=True)(floats)
    return outputs, gradients


@functools.partial(jax.jit, static_argnames="options")
def _chosen(floats, valid, ids, cotangents, options):
    def objective(floats):
        def one_head(points, table, atlas, ids):
            payload = patches_of(atlas, patch=options.patch)
            return blend_chosen(points, table, payload=payload, ids=ids, options=options)

        outputs = jax.vmap(one_head)(*joined(floats, valid), ids)
        return sum(jnp.sum(o * p) for o, p in zip(outputs, cotangents, strict=True)), outputs

    return jax.grad(objective, has_aux=True)(floats)


def float64(inputs, cotangents, ids, options):
    """Features and Σ g of the plain formulas, and their gradients by name, for given neighbours."""
    floats, valid = split(inputs)
    with jax.enable_x64(True):
        wide = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, jnp.float64))
        arguments = wide(floats), valid, jnp.asarray(ids), wide(cotangents)
        gradients, outputs = _chosen(*arguments, options)
        return jax.tree.map(np.asarray, (outputs, gradients))


def assert_gradients_match(got, want):
    """Cosine ≥ 0.99999, relative L2 ≤ 1e-4, name by name."""
    for name, expected in want.items():
        a, b = np.float64(got[name]).ravel(), np.float64(expected).ravel()
        scale = np.linalg.norm(b)
        assert np.linalg.norm(a - b) <= 1e-4 * scale + 1e-12, name
        assert a @ b >= 0.99999 * np.linalg.norm(a) * scale - 1e-12, name


def assert_values_match(got, want):
    """The largest error is at most 1e-5 standard deviations of what is expected."""
    scale = np.std(want) if want.size > 1 else np.abs(want).max()
    assert np.abs(np.float64(got) - want).max() <= 1e-5 * scale + 1e-12


def _squared(inputs, metric):
    """[b r g] in float64; infinite to a Gaussian that is not valid."""
    points, table, _ = inputs
    delta = np.float64(points)[:, :, None] - np.float64(table.centers)[:, None]
    if metric == "rbf":
        delta = np.einsum("brga,bgac->brgc", delta, np.float64(table.rotations))
        delta = delta / np.maximum(np.abs(np.float64(table.radii)), 1e-4)[:, None]
    return np.where(np.asarray(table.valid)[:, None], np.sum(delta**2, axis=-1), np.inf)


def assert_nearest(inputs, ids, options, *, exact=False):
    """A valid set of K, each within (1 + 1e-5) of the K-th distance.

    With `exact`, for distances that float32 holds exactly: in order, ties by index.
    """
    squared, ids = _squared(inputs, options.metric), np.asarray(ids)
    ranked = np.sort(squared, axis=-1)[..., options.neighbors - 1 : options.neighbors]
    chosen = np.take_along_axis(squared, ids, axis=-1)
    assert (np.sqrt(chosen) <= np.sqrt(ranked) * (1 + 1e-5)).all()
    assert (np.diff(np.sort(ids, axis=-1), axis=-1) > 0).all()
    if exact:
        want = np.argsort(squared, axis=-1, kind="stable")[..., : options.neighbors]
        np.testing.assert_array_equal(ids, want)


def table(centers, *, radii=0.1, valid=None):
    """Round Gaussians of one head at the given centres."""
    centers = jnp.asarray(centers, jnp.float32)
    count = centers.shape[0]
    return GaussianTable(
        centers=centers[None],
        rotations=jnp.broadcast_to(jnp.eye(3), (1, count, 3, 3)),
        radii=jnp.full((1, count, 3), radii, jnp.float32),
        valid=jnp.ones((1, count), bool) if valid is None else jnp.asarray(valid)[None],
    )


def shapes(spec, sharding=None):
    """`split` of such inputs and `probes`, as shapes: for what is compiled and never run."""
    b, r, n, side = spec.heads, spec.points, spec.gaussians, spec.grid * spec.patch

    def of(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    floats = {
        "points": of(b, r, 3),
        "atlas": of(b, side, side, 3 * spec.channels),
        "centers": of(b, n, 3),
        "rotations": of(b, n, 3, 3),
        "radii": of(b, n, 3),
    }
    return floats, of(b, n, dtype=jnp.bool_), (of(b, r, spec.channels), of(b, r))


def traced(spec, sharding=None, *, blend=knn_blend, options):
    """Outputs and gradients of a shape, traced."""

    def outputs_and_gradients(floats, valid, cotangents):
        return run(joined(floats, valid), cotangents, blend=blend, options=options)

    return jax.jit(outputs_and_gradients).trace(*shapes(spec, sharding))

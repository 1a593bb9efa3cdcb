"""The part segmenter: its form, and the classes that it tells apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets import part_segmenter as segmenter
from headjax.nets.part_segmenter import CLASSES, PartSegmenter, PartSegmenterConfig
from headjax.render.parts import PART_NAMES

TINY = PartSegmenterConfig(widths=(8, 8, 8), margin=0)


@pytest.fixture(scope="module")
def params():
    return segmenter.init_params(TINY, jax.random.key(0))


def test_every_pixel_gets_a_logit_of_every_class(params):
    images = jax.random.uniform(jax.random.key(1), (2, 16, 24, 3), minval=-1.0)
    logits = PartSegmenter(TINY).apply({"params": params}, images)
    assert logits.shape == (2, 16, 24, len(CLASSES)) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all()


def test_pictures_of_a_batch_do_not_see_each_other(params):
    images = jax.random.uniform(jax.random.key(2), (2, 16, 16, 3), minval=-1.0)
    apply = jax.jit(lambda x: PartSegmenter(TINY).apply({"params": params}, x))
    other = apply(images.at[1].set(0.5))
    np.testing.assert_array_equal(apply(images)[0], other[0])
    assert not np.allclose(apply(images)[1], other[1])


def test_the_four_fine_pixels_of_a_coarse_one_are_told_apart(params):
    head = jax.tree.map(jnp.zeros_like, params) | {"head": params["head"]}
    number = jnp.arange(4 * len(CLASSES), dtype=jnp.float32)
    head["head"] = {"kernel": jnp.zeros_like(params["head"]["kernel"]), "bias": number}
    logits = PartSegmenter(TINY).apply({"params": head}, jnp.zeros((1, 8, 8, 3)))
    corner = logits[0, :2, :2].reshape(4, len(CLASSES))
    np.testing.assert_array_equal(corner, number.reshape(4, len(CLASSES)))
    np.testing.assert_array_equal(logits[0, 4:6, 2:4], logits[0, :2, :2])


def test_the_margin_is_background_and_not_looked_at(params):
    framed = PartSegmenter(PartSegmenterConfig(widths=(8, 8, 8), margin=4))
    images = jax.random.uniform(jax.random.key(3), (1, 24, 32, 3), minval=-1.0)
    logits = framed.apply({"params": params}, images)
    inner = PartSegmenter(TINY).apply({"params": params}, images[:, 4:-4, 4:-4])
    np.testing.assert_allclose(logits[:, 4:-4, 4:-4], inner, rtol=1e-5, atol=1e-6)
    frame = np.ones((24, 32), bool)
    frame[4:-4, 4:-4] = False
    assert (jax.nn.softmax(logits)[0, frame, 0] > 0.999).all()


def test_it_is_small():
    form = jax.eval_shape(
        lambda key: segmenter.init_params(PartSegmenterConfig(), key), jax.random.key(0)
    )
    assert 100_000 < sum(leaf.size for leaf in jax.tree.leaves(form)) < 600_000


def test_sizes_that_do_not_fit_are_refused(params):
    with pytest.raises(ValueError, match="16x20 within the margin; multiples of 8"):
        PartSegmenter(TINY).apply({"params": params}, jnp.zeros((1, 16, 20, 3)))
    with pytest.raises(ValueError, match="0x0 within the margin"):
        PartSegmenter(PartSegmenterConfig()).apply({"params": params}, jnp.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match="multiples of 8"):
        PartSegmenterConfig(widths=(8, 12, 16))
    with pytest.raises(ValueError, match="at least 2 classes"):
        PartSegmenterConfig(classes=1)


def test_every_part_has_a_class_and_left_and_right_the_same():
    numbers = segmenter.classes_of(np.arange(19, dtype=np.uint8)[None])[0]
    of = dict(zip(PART_NAMES, numbers, strict=True))
    assert set(of.values()) == set(range(len(CLASSES)))
    assert of["background"] == 0 and [p for p in of if of[p] == 0] == ["background"]
    for pair in ("brow", "eye", "ear"):
        assert of[f"l_{pair}"] == of[f"r_{pair}"] == CLASSES.index(pair + "s")
    assert of["u_lip"] == of["l_lip"] == of["mouth"] == CLASSES.index("mouth")
    assert of["eye_g"] == CLASSES.index("glasses") and of["nose"] == CLASSES.index("nose")

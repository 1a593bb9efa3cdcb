"""Arithmetic and memory traffic of compiled programs, against what can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train import flops
from headjax.train.planning import counts, hlo


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def compiled(function, *arguments):
    return hlo.parse(jax.jit(function).lower(*arguments).compile().as_text())


def test_products_in_a_loop_count_as_often_as_it_runs():
    def function(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=10)[0]

    module = compiled(function, array(32, 16), array(16, 16))
    assert counts.matrix_flops(module) == 10 * 2 * 32 * 16 * 16


CONVOLUTION = """\
ENTRY %main (x: f32[2,8,8,3]) -> f32[2,8,8,5] {{
  %x = f32[{left}]{{3,2,1,0}} parameter(0)
  %w = f32[{right}]{{3,2,1,0}} parameter(1)
  ROOT %c = f32[{out}]{{3,2,1,0}} convolution(%x, %w), window={{{window}}}, dim_labels={labels}
}}
"""


@pytest.mark.parametrize(
    ("options", "window", "labels"),
    [
        ({"padding": "SAME"}, "size=3x3 pad=1_1x1_1", "b01f_01io->b01f"),
        ({"padding": "VALID"}, "size=3x3", "b01f_01io->b01f"),
        ({"padding": "SAME", "window_strides": (2, 2)}, "size=3x3 stride=2x2 pad=0_1x0_1",
         "b01f_01io->b01f"),
        ({"padding": [(2, 1), (2, 1)], "lhs_dilation": (2, 2)},
         "size=3x3 pad=2_1x2_1 lhs_dilate=2x2", "b01f_01io->b01f"),
        ({"padding": [(2, 2), (2, 2)], "rhs_dilation": (2, 2)},
         "size=3x3 pad=2_2x2_2 rhs_dilate=2x2", "b01f_01io->b01f"),
    ],
)  # fmt: skip
def test_convolutions_count_what_meets_an_element(options, window, labels):
    """The same as the count on the trace, which has tests of its own."""

    def function(x, w):
        options.setdefault("window_strides", (1, 1))
        return jax.lax.conv_general_dilated(
            x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    x, w = array(2, 8, 8, 3), array(3, 3, 3, 5)
    out = jax.eval_shape(function, x, w).shape
    sizes = [",".join(map(str, shape)) for shape in (x.shape, w.shape, out)]
    text = CONVOLUTION.format(
        left=sizes[0], right=sizes[1], out=sizes[2], window=window, labels=labels
    )
    assert counts.matrix_flops(hlo.parse(text)) == flops.count(function, x, w)


def test_a_product_that_a_tpu_writes_as_a_convolution_counts_alike():
    text = """\
ENTRY %main (x: bf16[256,512]) -> f32[256,128] {
  %x = bf16[256,512]{1,0} parameter(0)
  %w = bf16[128,512]{1,0} parameter(1)
  ROOT %c = f32[256,128]{1,0} convolution(%x, %w), dim_labels=bf_oi->bf
}
"""
    assert counts.matrix_flops(hlo.parse(text)) == 2 * 256 * 512 * 128


def test_elementwise_work_reads_and_writes_its_arrays_once():
    module = compiled(lambda x, y: jnp.sin(x) * y + x, array(1000), array(1000))
    assert counts.memory_bytes(module) == 3 * 4000


def test_a_loop_over_slices_reads_each_slice_once():
    """Not the whole array at each turn."""
    whole = np.zeros((50, 2000), np.float32)
    module = compiled(
        lambda x: jax.lax.scan(lambda c, row: (c + jnp.sin(row), None), x[0], x)[0], whole
    )
    assert whole.nbytes < counts.memory_bytes(module) < 8 * whole.nbytes


TPU_FUSIONS = """\
%sliced (p: f32[64,128], i: s32[]) -> f32[1,128] {
  %p = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[64,128]{1,0} bitcast(%p)
  ROOT %d = f32[1,128]{1,0} dynamic-slice(%b, %i, %i), dynamic_slice_sizes={1,128}
}

%updated (p: f32[64,128], u: f32[1,128], i: s32[]) -> f32[64,128] {
  %p.1 = f32[64,128]{1,0} parameter(0)
  %u = f32[1,128]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %o = f32[64,128]{1,0} dynamic-update-slice(%p.1, %u, %i.1, %i.1)
}

ENTRY %main (x: f32[64,128], i: s32[]) -> f32[64,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %i.2 = s32[] parameter(1)
  %row = f32[1,128]{1,0:T(1,128)SPACE} fusion(%x, %i.2), kind=kLoop, calls=%sliced
  ROOT %r = f32[64,128]{1,0} fusion(%x, %row, %i.2), kind=kLoop, calls=%updated
}
"""


@pytest.mark.parametrize(("space", "rows"), [("", 4), ("S(1)", 2)])
def test_slices_and_updates_in_place_move_what_they_touch(space, rows):
    """One row is read, written, read and written; the middle two not if it stays on the chip."""
    module = hlo.parse(TPU_FUSIONS.replace("SPACE", space))
    assert counts.memory_bytes(module) == rows * 128 * 4 + 2 * 4  # and the index twice

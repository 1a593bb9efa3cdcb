"""Compiled programs' text: shapes, loops' counts, and what runs how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.train.planning import hlo

LOOP = """\
HloModule m, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0:T(256)}) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4]{0:T(256)S(1)} get-tuple-element(%p), index=1
  %j = s32[] add(%i, %one)
  %y = f32[4]{0} multiply(%x, %x), metadata={op_name="jit(f)/mul (twice)"}
  ROOT %t = (s32[], f32[4]) tuple(%j, %y)
}

%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]) parameter(0)
  %limit = s32[] constant(LIMIT)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %done = pred[] fusion(%i.1, %limit), kind=kLoop, calls=%compared
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %first = s32[] constant(3)
  %copied = s32[] copy(%first)
  %start = (s32[], f32[4]) tuple(%copied, %x.1)
  %loop = (s32[], f32[4]) while(%start), condition=%condition, body=%body
  ROOT %out = f32[4]{0} get-tuple-element(%loop), index=1
}
"""


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("f32[3,5]{1,0}", [60]),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", [2048]),
        ("(s32[], pred[7]{0}, (u8[2], s4[6]))", [4, 7, 2, 3]),
        ("f32[]", [4]),
        ("f8e4m3fn[10]{0}", [10]),
        ("token[]", [0]),
    ],
)
def test_buffers_have_the_sizes_of_their_types(text, bytes_):
    assert [buffer.bytes for buffer in hlo.buffers_of(text)] == bytes_


def test_a_buffer_says_which_memory_it_lies_in():
    (first, second) = hlo.buffers_of("(f32[4]{0:T(256)}, f32[4]{0:T(256)S(1)})")
    assert (first.space, second.space) == (0, 1)


@pytest.mark.parametrize(("limit", "count"), [(10, 7), (3, 0)])
def test_a_loop_of_a_counter_runs_from_its_start_to_its_limit(limit, count):
    module = hlo.parse(LOOP.replace("LIMIT", str(limit)))
    loop = module.computations["main"].instructions["loop"]
    assert hlo.trip_count(module, loop, module.computations["main"]) == count


def test_what_a_loop_does_runs_as_often_as_the_loop():
    module = hlo.parse(LOOP.replace("LIMIT", "10"))
    times = {run.instruction.name: run.times for run in module.runs()}
    assert times["y"] == 7 and times["x.1"] == 1 and module.unknown_loops() == 0


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    module = hlo.parse(LOOP.replace("direction=LT", "direction=NE").replace("LIMIT", "10"))
    times = {run.instruction.name: run.times for run in module.runs()}
    assert times["y"] == 1 and module.unknown_loops() == 1


def test_a_compiled_scan_within_a_scan_multiplies():
    def step(x, _):
        return jax.lax.scan(lambda y, _: (jnp.sin(y @ y), None), x, None, length=3)[0], None

    def function(x):
        return jax.lax.scan(step, x, None, length=5)[0]

    compiled = jax.jit(function).lower(np.zeros((8, 8), np.float32)).compile()
    module = hlo.parse(compiled.as_text())
    products = [run.times for run in module.runs() if run.instruction.opcode == "dot"]
    assert products == [15] and module.unknown_loops() == 0


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("module @jit_f {}")

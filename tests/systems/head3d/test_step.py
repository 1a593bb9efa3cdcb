"""Phase B's step: turns, what each of them changes, its total, and the teacher that stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.geometry.cameras import orbit_labels
from headjax.systems.head3d import losses, settings
from headjax.systems.head3d.step import DistillStep, Drawn, Start
from headjax.train import config as configs
from headjax.train.gan import sections

# The step of front and back, as the smoke preset has it but for the rate of the average and with a
# super-resolution.
OVERRIDES = [
    "--config.distill.batch_size=2", "--config.generator.neural_resolution=8",
    "--config.distill.discriminator_interval=2", "--config.distill.ema_kimg=0.001",
    "--config.generator.superresolution.form=own", "--config.generator.superresolution.entry=8",
    "--config.generator.superresolution.features=(8,8)",
]  # fmt: skip


def step_of(*more):
    config = configs.load("head3d:smoke", overrides=[*OVERRIDES, *more]).values
    teacher = settings.generator_config(config)
    student = settings.student_config(config, teacher)
    return DistillStep(
        student, settings.discriminator_config(config, student), teacher=teacher,
        lessons=settings.lessons(config), recipe=sections.recipe(config.distill),
        neural_resolution=8,
    )  # fmt: skip


def batch():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (2, 2, 16, 16, 3)).astype(np.uint8)
    return {
        "image": jnp.asarray(pictures[0]), "camera": jnp.asarray(orbit_labels([0.0, 80.0])),
        "back_image": jnp.asarray(pictures[1]),
        "back_camera": jnp.asarray(orbit_labels([170.0, -100.0])),
    }  # fmt: skip


def start(step):
    """Different networks for teacher and student, and for the two discriminators."""
    keys = jax.random.split(jax.random.key(7), 2)
    one, other = (super(DistillStep, step).init(key) for key in keys)

    def variables(state):
        return {"params": state.params["g"], "buffers": state.extras["buffers"]}

    return Start(variables(one), variables(other), one.params["d"], other.params["d"])


@pytest.fixture(scope="module")
def turns():
    """The states before, between and after a turn of the front and one of the back."""
    step = step_of()
    begin = jax.jit(lambda key: step.init(key, start(step)))
    update = jax.jit(step)
    states, told = [begin(jax.random.key(0))], []
    for number in range(2):
        key = jax.random.fold_in(jax.random.key(1), number)
        state, terms = update(states[-1], batch(), key)
        states.append(state.replace(step=state.step + 1))
        told.append({name: float(value) for name, value in terms.items()})
    return step, states, told


def moved(before, after):
    """Whether any number of a tree changed."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(bool(np.any(np.asarray(a) != np.asarray(b))) for a, b in pairs)


def test_turns_alternate_and_each_trains_its_own_discriminator(turns):
    _, states, told = turns
    assert [terms["front"] for terms in told] == [1.0, 0.0]
    for number, (mine, other) in enumerate([("front", "back"), ("back", "front")]):
        before, after = states[number], states[number + 1]
        assert moved(before.params[mine], after.params[mine])
        assert not moved(before.params[other], after.params[other])
        assert moved(before.opt_state[mine], after.opt_state[mine])
        assert not moved(before.opt_state[other], after.opt_state[other])
        assert moved(before.params["g"], after.params["g"]) and moved(before.ema, after.ema)


def test_the_teacher_stays_as_it_is(turns):
    _, states, _ = turns
    assert not moved(states[0].extras["teacher"], states[2].extras["teacher"])
    assert moved(states[0].extras["teacher"]["params"], states[0].params["g"])
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[2])


def test_the_total_is_equation_10_with_the_weights_of_the_turn(turns):
    step, _, told = turns
    lessons = step.lessons
    for terms, gan in zip(told, (lessons.gan_front, lessons.gan_back), strict=True):
        part = {name.removeprefix("generator/"): value for name, value in terms.items()}
        total = gan * part["adversarial"] + lessons.kd * part["kd"] + lessons.map * part["map"]
        total += lessons.rgb * part["rgb"] + lessons.perceptual * part["multiscale_gradients"]
        assert terms["loss"] == pytest.approx(total, rel=1e-4)
        assert part["kd"] > 0 and part["map"] > 0
    assert lessons.gan_front != lessons.gan_back


def test_pictures_are_compared_in_front_alone(turns):
    _, _, (front, back) = turns
    for name in ("rgb", "multiscale_gradients"):
        assert front[f"generator/{name}"] > 0 and back[f"generator/{name}"] == 0


def test_the_penalty_is_weighted_by_the_turns_gamma(turns):
    _, _, told = turns
    for terms, gamma in zip(told, (1.0, 20.0), strict=True):
        norms = terms["r1/norm_image"] + terms["r1/norm_image_raw"]
        assert norms > 0
        assert terms["r1/penalty"] == pytest.approx(0.5 * gamma * norms, rel=1e-4)


def test_everything_that_is_told_is_finite(turns):
    _, states, told = turns
    assert all(np.isfinite(value) for terms in told for value in terms.values())
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states[2].params))


def test_a_faced_state_returns_with_only_its_turns_discriminator_changed(turns):
    step, states, _ = turns
    state = states[0].replace(step=jnp.int32(5))
    for front in (True, False):
        turn = step._facing(state, jnp.asarray(front))
        assert int(turn.step) == 2  # turns of this discriminator before
        wanted = state.params["front" if front else "back"]
        assert not moved(turn.params["d"], wanted)
        changed = turn.replace(
            params=turn.params | {"d": jax.tree.map(lambda x: x + 1, turn.params["d"])}
        )
        back = step._returned(state, changed, jnp.asarray(front))
        assert int(back.step) == 5
        assert moved(back.params["front"], state.params["front"]) == front
        assert moved(back.params["back"], state.params["back"]) != front


def test_one_discriminator_judges_both_turns_where_the_config_says_so():
    step = step_of("--config.distill.dual=False")
    state = jax.eval_shape(step.init, jax.random.key(0))
    assert set(state.params) == {"g", "front"} == set(state.opt_state)
    after, _ = jax.eval_shape(step, state, batch(), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)


def test_all_planes_are_compared_in_the_ablation_and_the_front_one_else():
    rng = np.random.default_rng(0)

    def drawn():
        sizes = ((2, 6, 4), (2, 3, 8, 8, 4), (2, 16, 16, 3), (2, 8, 8, 3))
        return Drawn(*(jnp.asarray(rng.standard_normal(size), jnp.float32) for size in sizes))

    theirs, mine = drawn(), drawn()
    cameras = jnp.asarray(orbit_labels([0.0, 90.0]))
    front, whole = (
        step_of(*more).compared(theirs, mine, cameras)
        for more in ((), ("--config.distill.planes=all",))
    )
    compare = functools.partial(losses.plane_distance, theirs.planes, mine.planes)
    np.testing.assert_allclose(front["kd"], compare(), rtol=1e-6)
    np.testing.assert_allclose(whole["kd"], compare(planes="all"), rtol=1e-6)
    assert set(front) == {"kd", "map", "rgb", "multiscale_gradients"}

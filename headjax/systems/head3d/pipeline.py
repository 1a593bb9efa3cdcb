"""Head3D's stages: data → teacher → finetune → distill → samples → evaluation → analysis.

The baselines have `mixed`, training on faces and heads at once, in the place of `distill`: DFT
from the teacher, FH from the fine-tuned generator (§4.2).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from headjax import data
from headjax.data.subset import Subset
from headjax.errors import UserError
from headjax.io import images
from headjax.nets import triplane_gan_weights
from headjax.nets.perceptual import weights
from headjax.nets.stylegan2_discriminator import DiscriminatorConfig
from headjax.nets.triplane_gan import GeneratorConfig
from headjax.systems.head3d import report, settings, sources
from headjax.systems.head3d.step import DistillStep, Start
from headjax.train import feed, loop
from headjax.train.gan import pictures, runs, sections
from headjax.train.gan.runs import Networks
from headjax.train.mesh import MeshOptions, make_mesh
from headjax.train.stages import Context, Row, Stage
from headjax.train.state import stream_key

TEACHER, TEACHER_JUDGE = "teacher.safetensors", "teacher_discriminator.safetensors"
FINETUNED, FINETUNED_JUDGE = "finetuned.safetensors", "finetuned_discriminator.safetensors"
GENERATOR = "generator.safetensors"
FRONT_JUDGE, BACK_JUDGE = "front_discriminator.safetensors", "back_discriminator.safetensors"
JUDGE = "discriminator.safetensors"


def stages(config: Any) -> list[Stage]:
    """The stages that this config runs, in order."""
    settings.check(config)
    make_mesh(MeshOptions(**config.mesh))  # or says why not, before any work
    training = {
        "finetune": Stage("finetune", train_finetune, "takes the teacher to full heads",
                          outputs=(FINETUNED, FINETUNED_JUDGE), everywhere=True),
        "distill": Stage("distill", train_distill, "teaches the heads the teacher's identities",
                         outputs=(GENERATOR, FRONT_JUDGE), everywhere=True),
        "mixed": Stage("mixed", train_mixed, "trains on faces and heads at once",
                       outputs=(GENERATOR, JUDGE), everywhere=True),
    }  # fmt: skip
    every = [
        Stage("data", prepare_data, "renders faces and full heads, or looks at their folders",
              outputs=("data_sheet.png",)),
        Stage("teacher", make_teacher, "takes or trains the generator of faces",
              outputs=(TEACHER,), everywhere=True),
        *(training[name] for name in settings.PHASES[config.method]),
        Stage("samples", report.make_samples, "draws new heads",
              outputs=("samples.png", "comparison.png", "turntable.mp4")),
        Stage("evaluation", report.evaluate, "scores identities and pictures",
              outputs=("metrics.json",)),
        Stage("analysis", report.analyse, "exchanges parts of tri-planes",
              outputs=("analysis.png", "analysis.json")),
    ]  # fmt: skip
    if not config.analysis.identities:
        every = every[:-1]
    return [dataclasses.replace(stage, minutes=config.minutes[stage.name]) for stage in every]


def describe(config: Any) -> list[Row]:
    """Parameter counts and memory of each stage, without training."""
    settings.check(config)
    generator = settings.generator_config(config)
    if config.teacher:
        generator, _ = triplane_gan_weights.load(settings.teacher_file(config))

    def count(network: GeneratorConfig | DiscriminatorConfig) -> int:
        shapes = triplane_gan_weights.shapes(network)["params"]
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    makes, judges = count(generator), count(settings.discriminator_config(config, generator))
    rows = []
    for name in settings.PHASES[config.method]:
        many = 2 if name == "distill" and config.distill.dual else 1
        # Parameters, gradients and two moments are float32; the generator's average on top.
        rows.append(Row(name, "generator", makes, 20 * makes))
        rows.append(Row(name, "discriminators", many * judges, 16 * many * judges))
        if name == "distill":
            rows.append(Row(name, "frozen teacher", None, 4 * makes))
    return rows


def prepare_data(context: Context) -> None:
    """Renders both data sets, or finds them; writes data_sheet.png, faces first."""
    shown = []
    for name in ("faces", "heads"):
        section = context.config[name]
        if section.source == "procedural":
            with context.logger.telling(name, unit="view") as tell:
                data.prepare(
                    sections.head_views(section), context.data_dir / name,
                    progress=lambda state, tell=tell: tell(state.done, state.total),
                )  # fmt: skip
        source = source_of(context, name)
        places = np.linspace(0, len(source) - 1, 16).astype(int).tolist()
        shown += [source.read(i, fields=("image",))["image"] for i in places]
        if shown[-1].shape[0] != section.resolution:
            raise UserError(
                f"the images of {name} are {shown[-1].shape[0]} pixels wide and {name}.resolution "
                f"is {section.resolution}; make them equal"
            )
    images.save_png(context.workdir / "data_sheet.png", pictures.sheet(np.stack(shown), columns=8))


def source_of(context: Context, name: str) -> Any:
    """The images of `faces` or `heads`: records by index."""
    return sources.of_section(context.config[name], context.data_dir / name)


def make_teacher(context: Context) -> None:
    """Takes the teacher that the config names, or trains one; writes it."""
    config = context.config
    if config.teacher:
        generator, networks, judge = _given_teacher(config)
    else:
        generator = settings.generator_config(config)
        judge = settings.discriminator_config(config, generator)
        networks = _own_teacher(context, generator, judge)
    runs.save(
        context, networks, generator=(TEACHER, generator), discriminator=(TEACHER_JUDGE, judge)
    )
    if networks.discriminator is None:
        context.logger.say("teacher: it came without its discriminator; D_front begins anew")


def _given_teacher(config: Any) -> tuple[GeneratorConfig, Networks, DiscriminatorConfig]:
    path = settings.teacher_file(config)
    generator, variables = triplane_gan_weights.load(path)
    if not isinstance(generator, GeneratorConfig) or generator.kind != "eg3d":
        raise UserError(f"{path} is no generator of EG3D; Head3D distils its tri-planes")
    if generator.resolution != config.heads.resolution:
        raise UserError(
            f"{path} draws {generator.resolution} x {generator.resolution}, but heads.resolution "
            f"is {config.heads.resolution}; make them equal"
        )
    judge_path = settings.teacher_judge_file(config)
    judge, params = settings.discriminator_config(config, generator), None
    if judge_path is not None:
        judge, loaded = triplane_gan_weights.load(judge_path)
        if not isinstance(judge, DiscriminatorConfig) or judge.resolution != generator.resolution:
            raise UserError(f"{judge_path} is no discriminator of what {path} draws")
        params = loaded["params"]
    return generator, Networks(variables, params), judge


def _own_teacher(context: Context, generator: GeneratorConfig, judge: DiscriminatorConfig) -> Any:
    """The recipe of configs/eg3d.py on the faces, from fresh or given weights."""
    config, source, networks = context.config, source_of(context, "faces"), None
    if config.start:
        given, variables = triplane_gan_weights.load(config.start)
        if triplane_gan_weights.shapes(given) != triplane_gan_weights.shapes(generator):
            raise UserError(f"start is {config.start!r}, a network of other sizes than generator's")
        networks = Networks(variables)
    if sections.warm(config.teacher_regression):
        networks = runs.regress(
            context, "teacher_regression", source=source,
            latents=data.latents(sections.head_views(config.faces)), generator=generator,
            section=config.teacher_regression,
            start=None if networks is None else networks.generator,
        )  # fmt: skip
    return runs.adversarial(
        context, "teacher_adversarial", source=source, generator=generator, discriminator=judge,
        section=config.teacher_adversarial, sizes=[generator.neural_resolution], start=networks,
    )  # fmt: skip


def _teacher(context: Context) -> tuple[Networks, GeneratorConfig, DiscriminatorConfig]:
    """The teacher with its networks' configurations."""
    networks, generator = runs.load(context, TEACHER, TEACHER_JUDGE)
    judge = settings.discriminator_config(context.config, generator)
    if networks.discriminator is not None:
        judge, _ = triplane_gan_weights.load(context.workdir / TEACHER_JUDGE)
    return networks, generator, judge


def train_finetune(context: Context) -> None:
    """Phase A: the teacher's networks learn the multi-view heads; writes both."""
    config, source = context.config, source_of(context, "heads")
    networks, teacher, judge = _teacher(context)
    student = settings.student_config(config, teacher)
    if sections.warm(config.finetune_regression):
        drawer = pictures.Drawer(teacher, networks.generator)
        labelled, latents = _labelled(context, drawer)
        shown = runs.regress(
            context, "finetune_regression", source=labelled, latents=latents, generator=student,
            section=config.finetune_regression, start=networks.generator, by_identity=False,
        )  # fmt: skip
        networks = dataclasses.replace(networks, generator=shown.generator)
    networks = runs.adversarial(
        context, "finetune", source=source, generator=student, discriminator=judge,
        section=config.finetune, sizes=[student.neural_resolution], start=networks,
    )  # fmt: skip
    runs.save(
        context, networks, generator=(FINETUNED, student), discriminator=(FINETUNED_JUDGE, judge)
    )


def _labelled(context: Context, teacher: pictures.Drawer) -> tuple[Any, np.ndarray]:
    """The warm start's heads and latents: `heads`, and some of `faces` drawn by the teacher."""
    config, heads = context.config, source_of(context, "heads")
    latents = data.latents(sections.head_views(config.heads))
    count = config.finetune_regression.faces
    if not count:
        return heads, latents
    faces = source_of(context, "faces")
    some = Subset(faces, np.linspace(0, len(faces) - 1, min(count, len(faces))).astype(int))
    of_faces = data.latents(sections.head_views(config.faces))
    context.logger.say(f"finetune: the teacher draws {len(some)} faces")
    drawn = sources.redrawn(
        some, teacher, latents=of_faces, key=stream_key(context.seed, "redrawn")
    )
    source = sources.Joined(drawn, heads, first=[0, len(of_faces)])
    return source, np.concatenate([of_faces, latents])


def train_mixed(context: Context) -> None:
    """The baselines: the recipe of EG3D on faces and heads together; writes both networks."""
    config = context.config
    networks, teacher, judge = _teacher(context)
    student = settings.student_config(config, teacher)
    if config.method == "fh":
        networks, _ = runs.load(context, FINETUNED, FINETUNED_JUDGE)
    networks = runs.adversarial(
        context, "mixed",
        source=sources.Joined(source_of(context, "faces"), source_of(context, "heads")),
        generator=student, discriminator=judge, section=config.mixed,
        sizes=[student.neural_resolution], start=networks,
    )  # fmt: skip
    runs.save(context, networks, generator=(GENERATOR, student), discriminator=(JUDGE, judge))


def train_distill(context: Context) -> None:
    """Phase B: the student learns from the frozen teacher; writes it and the discriminators."""
    config = context.config
    teacher, teacher_config, judge = _teacher(context)
    finetuned, student = runs.load(context, FINETUNED, FINETUNED_JUDGE)
    step = DistillStep(
        student, judge, teacher=teacher_config, lessons=settings.lessons(config),
        recipe=sections.recipe(config.distill), neural_resolution=student.neural_resolution,
        perceptual=_perceptual(config),
    )  # fmt: skip
    networks = {
        "teacher": teacher.generator, "student": finetuned.generator,
        "front": teacher.discriminator, "back": finetuned.discriminator,
    }  # fmt: skip
    start = Start(**jax.tree.map(jnp.asarray, networks))
    size = config.distill.batch_size
    pairs = sources.Pairs(
        *sources.front_and_back(source_of(context, "faces"), source_of(context, "heads"))
    )

    def batches(rows):
        return data.batches(
            pairs, batch_size=size, seed=context.seed + 2, fields=pairs.fields, rows=rows,
            **config.input,
        )  # fmt: skip

    task = loop.Task("distill", lambda key: step.init(key, start), step, batches, batch_size=size)
    state = loop.fit_stage(context, task, steps=config.distill.steps, section=config.distill)
    host = feed.to_host({"g": state.ema, "buffers": state.extras["buffers"], "d": state.params})
    variables = {"params": host["g"], "buffers": host["buffers"]}
    runs.save(
        context, Networks(variables, host["d"]["front"]), generator=(GENERATOR, student),
        discriminator=(FRONT_JUDGE, judge),
    )  # fmt: skip
    if config.distill.dual and context.group.leads:
        back = {"params": host["d"]["back"]}
        triplane_gan_weights.save(context.workdir / BACK_JUDGE, back, config=judge, which="D")


def _perceptual(config: Any) -> Any:
    """LPIPS where the config asks for it; None for the stand-in."""
    if config.distill.perceptual != "lpips_vgg":
        return None
    purpose = "distill.perceptual='lpips_vgg'"
    path = weights.require("vgg", config.weights.vgg, purpose=purpose)
    return weights.load_lpips(path, trunk="vgg")

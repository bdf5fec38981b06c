"""The batched engine compared with a plain loop: one image, torch.nn modules, torch.optim.Adam."""

import contextlib
import gc
import types
import weakref

import pytest
import torch
from conftest import linear_victim, random_images
from torch import nn

from data.errors import InputError
from data.memory import memory_ran_out
from purifiers.ddip import DDIP
from purifiers.dip import DIP, DIPTrace
from purifiers.dipdefend import DIPDefend
from purifiers.fitting import engine
from purifiers.fitting.draws import Draws
from purifiers.fitting.stack import Stack
from purifiers.networks.fcn import FCN
from purifiers.networks.skipnet import SkipNet
from purifiers.networks.unet import UNet
from purifiers.oag import Generator, OAGTrace
from purifiers.purifier import purify_together
from purifiers.ride import RIDETrace

NETWORKS = {
    "medium": SkipNet(
        down=[32, 32, 32],
        up=[32, 32, 32],
        skip=[3, 3, 3],
        kernel_down=[3, 3, 3],
        kernel_up=[3, 3, 3],
    ),
    "small": SkipNet(down=[16, 16], up=[16, 16], skip=[4, 4], kernel_down=[2, 2], kernel_up=[2, 2]),
    "large": SkipNet(
        down=[48] * 4,
        up=[48] * 4,
        skip=[4] * 4,
        kernel_down=[4] * 4,
        kernel_up=[4] * 4,
        padding="replicate",
    ),
    "dipdefend": SkipNet(
        down=[4, 8, 16],
        up=[4, 8, 16],
        skip=[0, 0, 0],
        kernel_down=[3, 3, 3],
        kernel_up=[3, 3, 3],
        depth=1,
        padding="constant",
        init="torch",
    ),
}


def trajectory(network, images, seeds, steps, **changes) -> torch.Tensor:
    """Return the reconstructions of a fit, (steps, B, C, H, W)."""
    iterates = []
    trace = DIPTrace(network=network, **({"input_scale": 1 / 30, "jitter": 0.0} | changes))
    trace.stream(images, seeds, steps, lambda _, x: iterates.append(x.clone()))
    return torch.stack(iterates)


class Plain(nn.Module):
    """The same U-Net built of ordinary modules, for a single image."""

    def __init__(self, net: SkipNet, drawn: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.net = net
        self.p = nn.ParameterDict({k.replace(".", "_"): nn.Parameter(v.clone()) for k, v in drawn.items()})

    def conv(self, x, name, stride=1):
        w, b = self.p[f"{name}_weight"], self.p[f"{name}_bias"] if name == "out" else None
        k = w.shape[-1]
        if k > 1:
            x = nn.functional.pad(x, ((k - 1) // 2, k // 2, (k - 1) // 2, k // 2), mode=self.net.padding)
        return nn.functional.conv2d(x, w, b, stride=stride)

    def norm(self, x, name):
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        scale, shift = (self.p[f"{name}_{kind}"].view(1, -1, 1, 1) for kind in ("scale", "shift"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(self, x, name, stride=1):
        return nn.functional.leaky_relu(self.norm(self.conv(x, name, stride), name), 0.2)

    def scale(self, x, i):
        inner = self.block(self.block(x, f"shrink{i}", 2), f"down{i}")
        if i + 1 < len(self.net.down):
            inner = self.scale(inner, i + 1)
        grown = nn.Upsample(scale_factor=2, mode="bilinear")(inner)[..., : x.shape[2], : x.shape[3]]
        joined = torch.cat([self.block(x, f"skip{i}"), grown], 1) if self.net.skip[i] else grown
        return self.block(self.block(self.norm(joined, f"join{i}"), f"up{i}"), f"mix{i}")

    def forward(self, z):
        return self.conv(self.scale(z, 0), "out").sigmoid()


def plain_trajectory(network, image, seed, steps, scale) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parameters = network.initialise(tuple(image.shape), generator)
    z = torch.rand(1, network.depth, *image.shape[1:], generator=generator).to(image) * scale
    model = Plain(network, parameters).to(image)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    iterates = []
    for _ in range(steps):
        out = model(z)
        iterates.append(out.detach().clone())
        optimiser.zero_grad()
        nn.functional.mse_loss(out, image.unsqueeze(0)).backward()
        optimiser.step()
    return torch.stack(iterates)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_a_plain_loop_over_one_image(name):
    """Both give the same to 1e-6 over 12 steps, in float64, which hides differences of rounding."""
    images, seeds = random_images(2, 32).double(), [5, 6]
    batched = trajectory(NETWORKS[name], images, seeds, steps=12)
    for i in range(2):
        alone = plain_trajectory(NETWORKS[name], images[i], seeds[i], 12, 1 / 30)
        torch.testing.assert_close(batched[:, i : i + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"jitter": 1 / 30}, {"optimise_input": True}], ids=str)
def test_an_image_does_not_depend_on_its_batch(changes):
    """Its bits are the same alone or among others, in any order, in float32 on this CPU."""
    images, seeds = random_images(11, 32), list(range(11))
    network = NETWORKS["medium"]
    together = trajectory(network, images, seeds, 12, **changes)
    alone = trajectory(network, images[4:5], [4], 12, **changes)
    flipped = trajectory(network, images.flip(0), seeds[::-1], 12, **changes).flip(1)
    assert torch.equal(together[:, 4:5], alone)
    assert torch.equal(together, flipped)


def test_an_image_among_64_others_takes_its_own_50_steps():
    """The tolerance is 0: on a CPU the trajectories are equal to the bit."""
    images, seeds = random_images(65, 16), list(range(65))
    together = trajectory(NETWORKS["small"], images, seeds, 50, jitter=1 / 30)
    for i in (0, 37, 64):
        alone = trajectory(NETWORKS["small"], images[i : i + 1], [i], 50, jitter=1 / 30)
        assert torch.equal(together[:, i : i + 1], alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"jitter": 1 / 30}, {"optimise_input": True}], ids=str)
def test_a_captured_graph_takes_the_steps_of_a_cpu(changes):
    """Both compute in float64, which hides differences of rounding; random numbers are float32 on both."""
    images, seeds = random_images(3, 32).double(), [5, 6, 7]
    on_cpu = trajectory(NETWORKS["medium"], images, seeds, 20, **changes)
    on_cuda = trajectory(NETWORKS["medium"], images.cuda(), seeds, 20, **changes).cpu()
    torch.testing.assert_close(on_cuda, on_cpu, atol=1e-4, rtol=0)


def test_a_chunk_repeats_bit_for_bit():
    images, seeds = random_images(4, 32), [1, 2, 3, 4]
    first = trajectory(NETWORKS["medium"], images, seeds, 20, jitter=1 / 30)
    trajectory(NETWORKS["small"], images, seeds, 3)
    torch.manual_seed(99)
    assert torch.equal(first, trajectory(NETWORKS["medium"], images, seeds, 20, jitter=1 / 30))


def test_seeds_matter():
    images = random_images(1, 32).repeat(2, 1, 1, 1)
    out = trajectory(NETWORKS["small"], images, [1, 2], 2)
    assert not torch.allclose(out[:, 0], out[:, 1])


@pytest.mark.parametrize("size", [(33, 32), (31, 47), (9, 16)])
def test_sizes_that_do_not_divide(size):
    out = trajectory(NETWORKS["medium"], torch.rand(2, 1, *size), [0, 1], 2)
    assert out.shape == (2, 2, 1, *size)


def test_an_image_that_is_not_finite_spoils_no_other():
    images, seeds = random_images(3, 32), [0, 1, 2]
    broken = images.clone()
    broken[1] = float("nan")
    whole, with_fault = (
        trajectory(NETWORKS["medium"], x, seeds, 10, jitter=1 / 30) for x in (images, broken)
    )
    assert with_fault[1:, 1].isnan().all()
    assert torch.equal(whole[:, [0, 2]], with_fault[:, [0, 2]])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(small_trace):
    """Everything that reads a trace keeps a fixed number of its reconstructions."""
    alive: list[int] = []
    settings = {"trace": small_trace, "maps": 60, "warmup": 2, "similarity": -1.0}
    purifiers = [
        DIP(trace=small_trace, steps=60),
        DIPDefend(trace=small_trace, steps=60),
        DDIP(steps=60, crossings=5, **settings),
        DDIP(steps=60, crossings=None, grid=10, **settings),
    ]

    class Counting(DIP):
        def readout(self, targets, victim):
            def see(iterate):
                gc.collect()
                alive.append(sum(torch.is_tensor(x) and x.shape == targets.shape for x in gc.get_objects()))

            return type("R", (), {"see": lambda _, i: see(i), "result": lambda _: targets})()

    images = random_images(2)
    purify_together(
        [*purifiers, Counting(trace=small_trace, steps=60)], images, seeds=[0, 1], victim=linear_victim(16)
    )
    assert max(alive[30:]) <= max(alive[:30])


@pytest.mark.parametrize("padding", ["reflect", "replicate", "constant"])
def test_images_too_small_for_the_network(padding):
    network = SkipNet(down=[8] * 4, up=[8] * 4, skip=[0] * 4, kernel_down=[3] * 4, kernel_up=[3] * 4,
                      padding=padding)  # fmt: skip
    assert len(trajectory(network, random_images(1, 17), [0], 1)) == 1
    with pytest.raises(InputError, match=f"at least 17 pixels with padding {padding}, got 16x16"):
        trajectory(network, random_images(1, 16), [0], 1)


def test_it_learns():
    images = nn.functional.interpolate(random_images(2, 4), scale_factor=8, mode="bilinear")
    out = trajectory(NETWORKS["small"], images, [0, 1], 100)
    assert (out[-1] - images).square().mean() < 0.005


def test_scales_must_agree():
    with pytest.raises(InputError, match=r"network\.up: expected 2 scales, got 3"):
        SkipNet(down=[8, 8], up=[8, 8, 8], skip=[0, 0], kernel_down=[3, 3], kernel_up=[3, 3])


@pytest.mark.parametrize("size", [(9, 12), (13, 10)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 7, 15])
def test_a_convolution_over_blocks_is_the_strided_one(kernel, stride, size):
    stack = Stack(2, Draws([0, 1], torch.device("cpu")))
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True)
              for s in ((1, 6, *size), (8, 3, kernel, kernel), (8,))]  # fmt: skip
    plain = stack.conv(*leaves, stride=stride, padding="constant")
    blocks = stack.conv_blocks(*leaves, stride=stride)
    torch.testing.assert_close(blocks, plain)
    weights = torch.randn_like(plain)
    for ours, theirs in zip(*(torch.autograd.grad(y, leaves, weights) for y in (blocks, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["dip", "ride", "unet", "oag"])
def test_a_fit_leaves_nothing_to_the_garbage_collector(name, monkeypatch):
    """The parameters of a fit are freed when it ends.

    Reference cycles would keep them on the device until the next collection, which does not know how full the
    device is.
    """
    traces = {
        "dip": DIPTrace(network=NETWORKS["small"]),
        "ride": RIDETrace(network=FCN(filters=[4]), iterations=2),
        "unet": RIDETrace(network=UNet(filters=[4, 4]), iterations=2),
        "oag": OAGTrace(network=Generator(kernel=3, filters=4), image_steps=1),
    }
    references: list[weakref.ref] = []
    make = engine.Networks.__init__

    def noted(self, *args, **words):
        make(self, *args, **words)
        references.extend(weakref.ref(parameter) for parameter in self.parameters.values())

    monkeypatch.setattr(engine.Networks, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        traces[name].stream(random_images(2, 16), [0, 1], 3, lambda step, images: None)
        assert len(references) > 2
        assert [ref() for ref in references if ref() is not None] == []
    finally:
        gc.enable()


class FakeCUDA:
    """A stand-in for CUDA that records what the engine asks of it; the work itself is done at once."""

    def __init__(self, monkeypatch, *, memory_ends: bool = False) -> None:
        self.streams, self.captured_on, self.replays, self.waits = [], [], 0, []
        self.memory_ends = memory_ends
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        engine._side_stream.cache_clear()

    def Stream(self, device):  # noqa: N802
        self.streams.append(types.SimpleNamespace(wait_stream=self.waits.append, device=device))
        return self.streams[-1]

    def current_stream(self):
        return types.SimpleNamespace(wait_stream=self.waits.append)

    @contextlib.contextmanager
    def stream(self, stream):
        yield

    def CUDAGraph(self):  # noqa: N802
        return self

    def replay(self):
        self.replays += 1

    @contextlib.contextmanager
    def graph(self, graph, *, stream):
        self.captured_on.append(stream)
        try:
            yield
            if self.memory_ends:
                raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if self.memory_ends:
                raise RuntimeError("operation failed due to a previous error during capture")


def on_fake_cuda(monkeypatch) -> None:
    monkeypatch.setattr(engine.Fit, "_is_captured", property(lambda self: True))


def test_all_fits_share_one_side_stream(monkeypatch):
    """Memory of a stream can be used on that stream only, so a stream for each step held it many times."""
    cuda = FakeCUDA(monkeypatch)
    on_fake_cuda(monkeypatch)
    for _ in range(3):
        trajectory(NETWORKS["small"], random_images(1, 16), [0], engine.WARM_UP + 3)
    assert len(cuda.streams) == 1
    assert cuda.captured_on == cuda.streams * 3
    assert cuda.replays == 3 * 3
    assert len(cuda.waits) == 3 * 2 * engine.WARM_UP
    engine._side_stream.cache_clear()


def test_memory_that_ends_while_a_graph_is_captured_is_told_from_other_errors(monkeypatch):
    FakeCUDA(monkeypatch, memory_ends=True)
    on_fake_cuda(monkeypatch)
    with pytest.raises(RuntimeError, match="previous error") as error:
        trajectory(NETWORKS["small"], random_images(1, 16), [0], engine.WARM_UP + 3)
    assert memory_ran_out(error.value)
    engine._side_stream.cache_clear()

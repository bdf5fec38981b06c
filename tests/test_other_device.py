"""Everything that computes on images stays on their device, and an optimisation never waits for the CPU.

No GPU is needed: a device is pretended (pretended_device.py), which refuses what CUDA would refuse.
"""

import contextlib
import importlib

import pytest
import torch
from conftest import ATTACKS, Noise, RowByRow, class_of, linear_victim, random_images, small_attack
from pretended_device import DEVICE, PretendedDevice
from test_purifiers import NAMES, purifier

from attacks import target as target_module
from attacks.knowledge import Decision, Full, Score
from attacks.open_defense import Everything
from purifiers import ddip
from purifiers.fitting.stack import STACKS
from purifiers.fitting.trace import TracePurifier

IMAGES = random_images(2, 32)


@pytest.fixture
def device(monkeypatch):
    """Yield the pretended device, with the layers of a CUDA device and fused optimisers."""
    monkeypatch.setitem(STACKS, DEVICE.type, STACKS["cuda"])
    monkeypatch.setitem(ddip.AT_ONCE, DEVICE.type, ddip.AT_ONCE["cuda"])
    optimiser = importlib.import_module("torch.optim.optimizer")
    fused = optimiser._get_fused_kernels_supported_devices
    monkeypatch.setattr(optimiser, "_get_fused_kernels_supported_devices", lambda: [*fused(), DEVICE.type])
    with PretendedDevice() as pretended:
        yield pretended


@pytest.mark.parametrize("make", [
    lambda x: x + torch.ones(2),
    lambda x: torch.cat([x, torch.ones(2)]),
    lambda x: torch.where(x > 0, x, torch.ones(2)),
], ids=["add", "cat", "where"])  # fmt: skip
def test_the_pretended_device_refuses_a_tensor_of_the_cpu(device, make):
    with pytest.raises(RuntimeError, match="got one on the CPU"):
        make(device.put(torch.ones(2)))


@pytest.mark.parametrize(("wait", "count"), [
    (lambda x: x.sum().item(), 1), (lambda x: bool((x > 0).any()), 1), (lambda x: x[x > 0], 1),
    (lambda x: x.cpu(), 1), (lambda x: torch.tensor([1.0], device=x.device), 1), (lambda x: x * 2 + 1, 0),
    (lambda x: torch.zeros(3, device=x.device), 0),
], ids=["item", "bool", "mask", "copy", "list", "arithmetic", "zeros"])  # fmt: skip
def test_the_pretended_device_sees_what_waits(device, wait, count):
    x = device.put(torch.ones(2))
    wait(x)
    assert len(device.waits) == count, device.waits


OTHERS = [name for name in NAMES if not issubclass(class_of("purifier", name), TracePurifier)]
FITS = [name for name in NAMES if name not in OTHERS and "imagenet" not in name]


@pytest.mark.parametrize("name", FITS)
def test_an_optimisation_stays_on_its_device_and_never_waits(device, name):
    trace, images = purifier(name).trace, IMAGES.double()  # float64 hides differences of rounding
    images = images[:, :1, :28, :28] if name.endswith("mnist") else images
    waits, results = [], []

    def observe(step, reconstructions):
        waits.append(len(device.waits))
        results.append(reconstructions)

    trace.stream(device.put(images), [1, 2], 2, observe)
    assert waits[0] == waits[1], device.waits[waits[0] :]
    on_cpu = []
    trace.stream(images, [1, 2], 2, lambda step, x: on_cpu.append(x))
    for ours, theirs in zip(results, on_cpu, strict=True):
        assert ours.device == DEVICE
        torch.testing.assert_close(ours.held, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ddip", "ddip-singh"])
def test_ddips_last_step_waits_as_often_for_many_images_as_for_few(device, name):
    """It asks about all their pairs at once; if it asked image by image, each image would wait."""
    victim, batches = linear_victim(32), []
    victim.weight = torch.nn.Parameter(device.put(victim.weight), requires_grad=False)
    waits = {}
    for count in (2, 6):
        images = device.put(random_images(count, 32))
        readout = purifier(name).readout(images, lambda x: (batches.append(len(x)), victim(x))[1])
        for step in range(12):  # every label changes at every step
            iterate = images if step % 2 else 1 - images
            readout.see(ddip.Iterate(step, iterate, images, victim))
        before, batches[:] = len(device.waits), []
        assert readout.result().device == DEVICE
        waits[count] = len(device.waits) - before
        assert len(batches) <= 1
    assert waits[2] == waits[6]


@pytest.mark.parametrize("name", OTHERS)
def test_a_purifier_stays_on_its_images_device(device, name):
    size = 6 if name == "pixeldefend" else 16  # it decides pixel by pixel
    method, victim, images = purifier(name), linear_victim(size), random_images(2, size)
    if hasattr(method, "iterations"):
        method.iterations = 3
    on_cpu = method.purify(images.clone(), [1, 2], victim)
    victim.weight = torch.nn.Parameter(device.put(victim.weight), requires_grad=False)
    result = method.purify(device.put(images), [1, 2], victim)
    assert result.device == DEVICE
    assert method.per_image_optimization or (result.held - on_cpu).abs().mean() < 1e-3


# Foolbox, which makes ddn, takes no tensor of a class that it does not know.
@pytest.mark.parametrize("name", sorted({*ATTACKS} - {"ddn"}))
def test_an_attack_stays_on_its_images_device(device, name, monkeypatch):
    disabled = target_module._disable_current_modes

    @contextlib.contextmanager
    def but_not_the_device():
        with disabled(), device:
            yield

    monkeypatch.setattr(target_module, "_disable_current_modes", but_not_the_device)
    attack, victim = small_attack(name), RowByRow(32)
    kind = {"decision": Decision, "score": Score, "everything": Everything}.get(attack.needs, Full)
    results = []
    for place in (lambda x: x, device.put):
        images, weight = place(IMAGES), place(victim.weight.data)
        victim.weight = torch.nn.Parameter(weight, requires_grad=False)
        labels = victim(images).argmax(1)
        target = kind().target(victim, Noise(sigma=1e-4), [], seeds=[1, 2], device=images.device)
        results.append(attack(target, images, labels, seeds=[3, 4]).images)
    on_cpu, adversarial = results
    assert adversarial.device == DEVICE
    assert (adversarial.held - on_cpu).abs().mean() < 1e-3

"""The adapter of the published CIFAR-10 diffusion model."""

import torch
from conftest import random_images

from purifiers.networks.ddpm import DDPM
from purifiers.networks.noise_schedule import variances


def test_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = DDPM()
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307


def test_it_has_the_tensors_of_the_checkpoint():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in DDPM().state_dict().items()}
    for name, shape in {
        "conv_in.weight": (128, 3, 3, 3),
        "time_embedding.linear_1.weight": (512, 128),
        "down_blocks.0.downsamplers.0.conv.weight": (128, 128, 3, 3),
        "down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
        "down_blocks.1.attentions.1.query.weight": (256, 256),
        "mid_block.attentions.0.proj_attn.bias": (256,),
        "mid_block.resnets.1.time_emb_proj.weight": (256, 512),
        "up_blocks.2.attentions.2.group_norm.weight": (256,),
        "up_blocks.3.resnets.0.conv_shortcut.weight": (128, 384, 1, 1),
        "up_blocks.2.upsamplers.0.conv.weight": (256, 256, 3, 3),
        "conv_norm_out.bias": (128,),
        "conv_out.weight": (3, 128, 3, 3),
    }.items():
        assert shapes[name] == shape, name
    assert "levels" not in shapes
    assert "up_blocks.3.upsamplers.0.conv.weight" not in shapes


def test_noise_levels_are_read_as_the_times_of_the_chain():
    network, asked_times = DDPM(widths=(32, 32)), []

    def noise(images, times):
        asked_times.append(times.tolist())
        return torch.full_like(images, 0.5)

    network.noise = noise
    signal = variances(1000)[1]
    times = [0, 99, 999]
    levels = ((1 - signal) / signal).sqrt()[times]
    noisy = random_images(3)
    result = network(noisy, levels)
    assert asked_times == [times]
    torch.testing.assert_close(result, noisy - 0.5 * levels.view(-1, 1, 1, 1).float())


def test_a_small_one_runs_and_keeps_the_shape():
    torch.manual_seed(0)
    network = DDPM(widths=(32, 64), layers=1)
    result = network(random_images(2), torch.tensor([0.1, 3.0]))
    assert result.shape == (2, 3, 16, 16)
    assert torch.isfinite(result).all()

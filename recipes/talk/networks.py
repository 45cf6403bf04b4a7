"""The five networks of the talk's tables as denoisers D(x, sigma) on images (B, C, H, W) of any size.

Every network is given the noise level, so that none is blind: MLPatch takes it as an argument, the four convolutional
networks as an additional input channel, constant over the image (FFDNet, Zhang et al., TIP 2018; DRUNet, Zhang et al.,
PAMI 2021). For U-Net and DRU-Net, images are padded to sides that are multiples of 8, and the result is cropped.

There are two choices of size. "paper": DnCNN and IRCNN of about their papers' sizes, though not exactly their networks
(DnCNN without batch normalisation, one IRCNN for all noise levels, both with the noise-level channel); U-Net and
DRU-Net of the talk's 8 M parameters. "talk": DnCNN and IRCNN widened to the talk's 3 M. MLPatch is always as in this
package.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from denoisers import MLPatch
from denoisers.mlpatch import ARCHITECTURES

__all__ = ["IRCNN", "NAMES", "SIZES", "Conditioned", "build", "parameters"]

NAMES = ("DnCNN", "IRCNN", "U-Net", "DRU-Net", "MLPatch")
SIZES = ("paper", "talk")
WIDTH = {"DnCNN": {"paper": 64, "talk": 136}, "IRCNN": {"paper": 64, "talk": 256}}
"""Channels of the inner layers, for 0.67 and 0.19 M parameters, or 3.0 M each."""


class IRCNN(nn.Module):
    """Seven dilated 3 x 3 convolutions that predict the noise: Zhang, Zuo, Gu, Zhang, CVPR 2017, section 3.2.

    Dilations 1 2 3 4 3 2 1; batch normalisation and ReLU between, neither after the last. The paper trains one network
    for each of 25 noise levels; with the noise level as an input channel, one serves them all.

    Args:
        inputs: channels read; those past `outputs` are conditions.
        outputs: channels of the image.
        width: channels of the inner layers.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64) -> None:
        super().__init__()
        self.outputs = outputs
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        for dilation in (2, 3, 4, 3, 2):
            # No bias, as the normalisation has a shift.
            convolution = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Denoise the first channels of x (B, inputs, H, W)."""
        noise: Tensor = self.layers(x)
        return x[:, : self.outputs] - noise


class Conditioned(nn.Module):
    """Denoiser D(x, sigma) from a network on (B, C + 1, H, W), whose last channel is sigma everywhere.

    Args:
        network: its first C output channels are the image.
        multiple: the network needs sides that are multiples of this.

    Its `sigma_range`, to which `pnp.solve` keeps, is unlimited until it is set after training.
    """

    def __init__(self, network: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple
        self.sigma_range = (0.0, math.inf)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        batch, channels, height, width = x.shape
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        y = torch.cat([x, level.expand(batch, 1, height, width)], 1)
        beyond = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(beyond):
            y = nn.functional.pad(y, beyond, mode="replicate")
        z: Tensor = self.network(y)
        return z[:, :channels, :height, :width]


class _JoinedDRUNet(nn.Module):
    """deepinv's DRUNet on one tensor of image and noise level, without its own handling of sigma and sizes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to (B, C + 1, H, W), sides multiples of 8."""
        z: Tensor = self.network.forward_unet(x)
        return z


def build(name: str, channels: int = 3, *, sizes: str = "paper", seed: int = 0) -> nn.Module:
    """Return an untrained network of the tables; the global random state is restored.

    Args:
        name: one of NAMES.
        channels: channels of the image, 1 or 3.
        sizes: one of SIZES.
        seed: seed of the initial weights.
    """
    if name not in NAMES:
        raise ValueError(f"build: name must be one of {NAMES}, got {name!r}")
    if sizes not in SIZES:
        raise ValueError(f"build: sizes must be one of {SIZES}, got {sizes!r}")
    if channels not in (1, 3):
        raise ValueError(f"build: channels must be 1 or 3, got {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(name, channels, sizes)


def _build(name: str, channels: int, sizes: str) -> nn.Module:
    if name == "MLPatch":
        return MLPatch(**ARCHITECTURES["color" if channels == 3 else "gray"])
    inputs = channels + 1
    if name == "IRCNN":
        return Conditioned(IRCNN(inputs, channels, WIDTH[name][sizes]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deepinv's optional packages
        from deepinv.models import DnCNN, DRUNet, UNet

        # DnCNN and UNet add input to output, which need equal channels; the last is not used.
        if name == "DnCNN":
            return Conditioned(DnCNN(inputs, inputs, depth=20, nf=WIDTH[name][sizes], pretrained=None))
        if name == "U-Net":  # Jin et al., TIP 2017, with batch normalisation
            return Conditioned(UNet(inputs, inputs, channels_per_scale=(64, 128, 256, 512)), multiple=8)
        # Half the paper's channels: 8 M parameters instead of 33 M. It adds the sigma channel itself.
        drunet = DRUNet(channels, channels, nc=(32, 64, 128, 256), pretrained=None)
        return Conditioned(_JoinedDRUNet(drunet), multiple=8)


def parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)

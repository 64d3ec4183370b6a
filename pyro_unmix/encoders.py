"""What a guide sees of a pixel: its spectrum alone, or its spectrum among its neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_unmix.errors import InputError

# A file that asks for more layers, or wider ones, is damaged.
_LARGEST = 10_000


class Encoder(nn.Module):
    """From inputs `(batch, n_inputs, height, width)` to features `(batch, n_features, height, width)`.

    An encoder keeps the resolution, is local (no pooling over the tile, no statistics over the batch) and ignores pixels that are
    not valid: then cutting a scene into tiles with context changes nothing.

    Attributes
    ----------
    settings
        What the constructor was called with, as plain values.
    n_features
        Number of features of a pixel.
    receptive_field
        Rows and columns that a pixel's features depend on.
    """

    settings: dict[str, int]
    n_features: int
    receptive_field: int

    def build(self, n_inputs: int) -> None:
        """Make the layers, now that the number of inputs is known."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, valid: Tensor) -> Tensor:
        """Features of all pixels; `valid` `(batch, height, width)` is True where there is data."""
        raise NotImplementedError


class PixelEncoder(Encoder):
    """A multilayer perceptron on each pixel's spectrum (MLP-LDVAE)."""

    def __init__(self, width: int = 64, depth: int = 2):
        super().__init__()
        self.settings = _positive(width=width, depth=depth)
        self.n_features = self.settings["width"]
        self.receptive_field = 1

    def build(self, n_inputs: int) -> None:
        sizes = [n_inputs] + [self.n_features] * self.settings["depth"]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, inputs: Tensor, valid: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = F.gelu(layer(inputs))
        return inputs


class ConvEncoder(Encoder):
    """Isotropic convolutions with residuals: the resolution is kept, no attention (CNN-LDVAE)."""

    def __init__(self, width: int = 32, depth: int = 2, kernel: int = 3):
        super().__init__()
        self.settings = _positive(width=width, depth=depth, kernel=kernel)
        if kernel % 2 == 0:
            raise InputError("an odd kernel, so that a pixel has a centre", f"{kernel}")
        self.n_features = self.settings["width"]
        self.receptive_field = 1 + depth * (kernel - 1)

    def build(self, n_inputs: int) -> None:
        width, kernel = self.n_features, self.settings["kernel"]
        self.stem = nn.Conv2d(n_inputs, width, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2)
                                    for _ in range(self.settings["depth"]))

    def forward(self, inputs: Tensor, valid: Tensor) -> Tensor:
        here = valid[:, None].to(inputs.dtype)
        features = F.gelu(self.stem(inputs)) * here
        for number, block in enumerate(self.blocks):
            # Features of pixels without data are set to zero after every layer: outside a tile or a scene looks the same.
            features = (features + self.attend(number, F.gelu(block(features)), here)) * here
        return features

    def attend(self, number: int, features: Tensor, here: Tensor) -> Tensor:
        """What block `number` adds to pixels, `here` one where they are valid; without attention, all of it."""
        return features


class SpatialAttentionEncoder(ConvEncoder):
    """Isotropic convolutions with residuals and spatial attention (SpACNN).

    The gate of a pixel is computed from the mean and the maximum over channels in a window around it: the spatial half of
    CBAM, Woo et al. (2018), ECCV, eq. 3. The model: Chitnis, Mantripragada and Qureshi (2023), arXiv 2311.10701.
    """

    def __init__(self, width: int = 32, depth: int = 2, kernel: int = 3, window: int = 7):
        super().__init__(width, depth, kernel)
        self.settings |= _positive(window=window)
        if window % 2 == 0:
            raise InputError("an odd window, so that a pixel has a centre", f"{window}")
        self.receptive_field += depth * (window - 1)

    def build(self, n_inputs: int) -> None:
        super().build(n_inputs)
        window = self.settings["window"]
        self.gates = nn.ModuleList(nn.Conv2d(2, 1, window, padding=window // 2) for _ in range(self.settings["depth"]))

    def attend(self, number: int, features: Tensor, here: Tensor) -> Tensor:
        described = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1) * here
        return features * torch.sigmoid(self.gates[number](described))


def _positive(**settings: int) -> dict[str, int]:
    for name, value in settings.items():
        if not isinstance(value, (int, np.integer)) or not 1 <= value <= _LARGEST:
            raise InputError(f"a whole number from 1 to {_LARGEST} for {name}", f"{value}")
    return {name: int(value) for name, value in settings.items()}

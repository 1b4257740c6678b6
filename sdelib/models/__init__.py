"""Networks: ``net(x, label)`` with x's shape in and out, or logits out. They see the words of floor 0 and nothing else.

What a label means and how an output becomes a score is :class:`sdelib.NetScore`'s affair (and :class:`sdelib.NetLogits`'s for a
classifier), never a network's.
"""

from sdelib.models.classifier import Classifier, wide_resnet
from sdelib.models.fir import Down, Up, fir_downsample, fir_kernel, fir_upsample
from sdelib.models.mlp import MLP
from sdelib.models.unet import UNet, ddpm_unet, ddpmpp, ncsnpp
from sdelib.models.zoo import published

__all__ = [
    "MLP",
    "Classifier",
    "Down",
    "UNet",
    "Up",
    "ddpm_unet",
    "ddpmpp",
    "fir_downsample",
    "fir_kernel",
    "fir_upsample",
    "ncsnpp",
    "published",
    "wide_resnet",
]

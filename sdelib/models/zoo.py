"""The networks of the paper's tables by the names of the authors' configurations, as changes of three parents.

``published("ve/cifar10_ncsnpp_continuous")`` is :func:`~sdelib.models.ncsnpp` as it stands; every other line says what differs.
"cont." in the paper's table 3 is trained with eq. 7, the others with eq. 1 or 3; "deep" has eight blocks a level instead of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdelib.models.unet import UNet, ddpm_unet, ddpmpp, ncsnpp

Maker = Callable[..., UNet]

HIGH = {"blocks": 2, "dropout": 0.0, "progressive_in": "skip", "progressive_out": "skip"}
AT_256 = {"image_size": 256, "multipliers": (1, 1, 2, 2, 2, 2, 2)} | HIGH
AT_1024 = {"image_size": 1024, "channels": 16, "multipliers": (1, 2, 4, 8, 16, 32, 32, 32)} | HIGH | {"blocks": 1}

PUBLISHED: dict[str, tuple[Maker, dict[str, Any]]] = {
    "ve/cifar10_ncsnpp": (ncsnpp, {"time": "positional"}),
    "ve/cifar10_ncsnpp_continuous": (ncsnpp, {}),
    "ve/cifar10_ncsnpp_deep_continuous": (ncsnpp, {"blocks": 8}),
    "vp/cifar10_ncsnpp_continuous": (ncsnpp, {"time": "positional"}),
    "vp/cifar10_ddpm": (ddpm_unet, {}),
    "vp/cifar10_ddpm_continuous": (ddpm_unet, {}),
    "vp/cifar10_ddpmpp": (ddpmpp, {}),
    "vp/cifar10_ddpmpp_continuous": (ddpmpp, {}),
    "vp/cifar10_ddpmpp_deep_continuous": (ddpmpp, {"blocks": 8}),
    "subvp/cifar10_ddpm_continuous": (ddpm_unet, {}),
    "subvp/cifar10_ddpmpp_continuous": (ddpmpp, {}),
    "subvp/cifar10_ddpmpp_deep_continuous": (ddpmpp, {"blocks": 8}),
    "ve/bedroom_ncsnpp_continuous": (ncsnpp, AT_256),
    "ve/church_ncsnpp_continuous": (ncsnpp, AT_256),
    "ve/celebahq_256_ncsnpp_continuous": (ncsnpp, AT_256),
    "ve/ffhq_256_ncsnpp_continuous": (ncsnpp, AT_256),
    "ve/ffhq_1024_ncsnpp_continuous": (ncsnpp, AT_1024),
    "ve/ffhq_ncsnpp_continuous": (ncsnpp, AT_1024),  # the same; two names are in use
    "ve/celebahq_ncsnpp_continuous": (ncsnpp, AT_1024),
    "vp/ddpm/cifar10": (ddpm_unet, {}),
    "vp/ddpm/cifar10_continuous": (ddpm_unet, {}),
}
"""Each name's parent and the arguments that differ from it."""


def published(name: str, **changes: Any) -> UNet:
    """The network of one of the authors' configurations; ``changes`` replace arguments of :class:`~sdelib.models.UNet`.

    Under ``torch.device("meta")`` it takes no memory, so parameters can be counted without any.

    Raises:
        ValueError: for a name that is not in :data:`~sdelib.models.zoo.PUBLISHED`, with the nearest one.
    """
    if name not in PUBLISHED:
        import difflib

        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name: needs one of {', '.join(PUBLISHED)}, got {name!r}{hint}")
    make, arguments = PUBLISHED[name]
    return make(**arguments | changes)

"""Networks: ``net(x, label)`` with x's shape in and out. They see the words of floor 0 and nothing else.

What a label means and how an output becomes a score is :class:`sdelib.NetScore`'s affair, never a network's.
"""

from sdelib.models.mlp import MLP

__all__ = ["MLP"]

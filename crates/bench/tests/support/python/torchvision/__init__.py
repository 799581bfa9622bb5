"""Stands in for torchvision in the tests of the torch workload."""

from types import SimpleNamespace

import torch

__version__ = "0.0-stand-in"


def get_model_builder(name):
    if name not in ("resnet18", "resnet50"):
        raise ValueError(f"Unknown model {name}")

    def builder(*, weights=None):
        assert weights is None
        return torch.Model()

    return builder


models = SimpleNamespace(get_model_builder=get_model_builder)

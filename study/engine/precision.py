"""Which dtype a module computes in."""

import torch
from torch import Tensor


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which products with a tensor are taken: autocast's, if on."""
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled(tensor.device.type):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype

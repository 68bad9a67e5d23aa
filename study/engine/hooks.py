"""What else is to happen when a module is called."""

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Tell whether something is to happen when a module is called, such as offloading."""
    state = vars(module)
    return any(state[kind] for kind in HOOKS) or "_hf_hook" in state

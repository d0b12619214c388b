"""The part of an image-text model that one encoder needs."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Run = Callable[[nn.Module], Tensor]


def keep_parts(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a view of a model with only these of its direct modules and parameters.

    The view and the model share weights.
    """
    kept = set(names)
    view = copy.copy(model)
    view.__dict__ = dict(model.__dict__)
    for kind in ("_modules", "_parameters"):
        members = getattr(model, kind)
        view.__dict__[kind] = {name: one for name, one in members.items() if name in kept}
    return view


@torch.no_grad()
def used_parts(model: nn.Module, run: Run) -> tuple[str, ...]:
    """Return the direct modules and parameters of a model that a function of it needs.

    Args:
        run: calls the function with a small input.
    """
    used: set[str] = set()

    def record(name: str) -> Callable[..., None]:
        return lambda *_: used.add(name)

    hooks = [
        module.register_forward_pre_hook(record(name))
        for name, child in model.named_children()
        for module in child.modules()
    ]
    try:
        run(model)
    finally:
        for hook in hooks:
            hook.remove()
    own = [name for name, _ in model.named_parameters(recurse=False)]
    for name in own:
        try:
            run(keep_parts(model, {*used, *own} - {name}))
        except (AttributeError, TypeError):
            used.add(name)
    return tuple(sorted(used))

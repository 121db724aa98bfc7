"""Adam on one flat vector, all parameters or those of a network (`ParamSpec.slice_of`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """The steps of `torch.optim.Adam` to the bit, and its state.

    torch's own loads torch's compiler, which takes seconds and memory in every rank, and leaves a folder among the
    temporary files.
    """

    def __init__(self, learning_rate: float, size: int) -> None:
        self.learning_rate, self.size = learning_rate, size
        self._moments: dict[str, Tensor] = {}

    def step(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        """New parameters [size] from the present ones and the gradient at them."""
        zeros = torch.zeros_like(parameters)
        old = self._moments or {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros}
        step, (beta1, beta2) = old["step"] + 1, BETAS
        mean = old["exp_avg"].lerp(gradient, 1 - beta1)
        square = (old["exp_avg_sq"] * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._moments = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        corrections = 1 - beta1 ** step.item(), 1 - beta2 ** step.item()
        scale = (square.sqrt() / corrections[1] ** 0.5).add_(EPSILON)
        return parameters.addcdiv(mean, scale, value=-self.learning_rate / corrections[0])

    def step_sizes(self) -> Tensor:
        """α / (√v̂ + ε) [size], by which the last step multiplied the mean of the gradients."""
        moments, (_, beta2) = self._moments, BETAS
        correction = 1 - beta2 ** moments["step"].item()
        return self.learning_rate / (moments["exp_avg_sq"].sqrt() / correction**0.5 + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """As that of torch's own."""
        group = {
            "lr": self.learning_rate,
            "betas": BETAS,
            "eps": EPSILON,
            "weight_decay": 0,
            "amsgrad": False,
            "maximize": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "fused": None,
            "decoupled_weight_decay": False,
            "params": [0],
        }
        return {"state": {0: dict(self._moments)} if self._moments else {}, "param_groups": [group]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave, or torch's own. Raises ValueError for moments of another size."""
        moments = dict(state["state"].get(0, {}))
        for name in moments.keys() & {"exp_avg", "exp_avg_sq"}:
            if moments[name].shape != (self.size,):
                raise ValueError(f"{name}: expected a tensor [{self.size}], got {list(moments[name].shape)}")
        self.learning_rate, self._moments = state["param_groups"][0]["lr"], moments

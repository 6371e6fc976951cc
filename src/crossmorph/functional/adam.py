"""ADAM for instance optimisation, without `torch.optim`, whose first use imports the compiler and takes a second."""

import torch
from torch import Tensor


class Adam:
    """The running moments of a gradient (Kingma and Ba, ICLR 2015, arXiv 1412.6980).

    Args:
        like: a tensor of the parameters' shape.
        betas: beta_1 and beta_2, the decay rates of the mean and of the mean square.
    """

    def __init__(self, like: Tensor, betas: tuple[float, float]) -> None:
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)
        self._betas, self._steps = betas, 0

    def direction(self, gradient: Tensor) -> Tensor:
        """``m / (sqrt(v) + 1e-8)`` of the bias-corrected moments, the ascent direction, before the step size."""
        first, second = self._betas
        self._steps += 1
        self._mean = torch.lerp(gradient, self._mean, first)
        self._square = torch.lerp(gradient * gradient, self._square, second)
        size = (self._square / (1 - second**self._steps)).sqrt()
        return self._mean / (1 - first**self._steps) / (size + 1e-8)

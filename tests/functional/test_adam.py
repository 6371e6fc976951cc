"""ADAM by hand, against PyTorch's."""

import torch

from crossmorph.functional.adam import Adam


def test_the_steps_are_those_of_torch():
    torch.manual_seed(0)
    start, target = torch.randn(4, 3), torch.randn(4, 3)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.1, betas=(0.7, 0.9))
    adam = Adam(ours, (0.7, 0.9))
    for _ in range(20):
        ours = ours + 0.1 * adam.direction(-2 * (ours - target))
        optimiser.zero_grad()
        (theirs - target).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_the_first_direction_is_the_sign():
    direction = Adam(torch.zeros(3), (0.8, 0.95)).direction(torch.tensor([4.0, -0.01, 0.0]))
    torch.testing.assert_close(direction, torch.tensor([1.0, -1.0, 0.0]), rtol=1e-5, atol=1e-5)

"""Motion parameters by hand, and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmorph.transforms.motion import framewise_displacement, motion_matrix, motion_parameters

CENTRE = np.array([10.0, -20.0, 30.0])


def test_a_turn_about_the_middle_by_hand() -> None:
    """A quarter turn from right to anterior about the middle, and 2 mm up."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    matrix[:3, 3] = CENTRE - matrix[:3, :3] @ CENTRE + [0, 0, 2]
    np.testing.assert_allclose(motion_parameters(matrix, CENTRE), [0, 0, 2, 0, 0, np.pi / 2], atol=1e-12)
    assert (matrix @ [11, -20, 30, 1]) == pytest.approx([10, -19, 32, 1])


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_there_and_back(values: list[float]) -> None:
    parameters = np.array(values) * [20, 20, 20, 1, 1, 1]
    np.testing.assert_allclose(motion_parameters(motion_matrix(parameters, CENTRE), CENTRE), parameters, atol=1e-9)


def test_framewise_displacement_by_hand() -> None:
    """1 + 2 mm and .01 radians on a sphere of 50 mm: 3.5 mm; then the same way back to half."""
    parameters = np.array([[0.0] * 6, [1, -2, 0, 0, 0.01, 0], [0.5, -1, 0, 0, 0.005, 0]])
    found = framewise_displacement(parameters)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [3.5, 1.75])

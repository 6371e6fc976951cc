"""Rigid motion as six numbers, and how much a head moves from one volume to the next.

    x' = c + t + R (x - c),    R = R_z(rot_z) R_y(rot_y) R_x(rot_x)

takes a point ``x`` of the reference to where it is in a volume, in RAS millimetres, so that the shift ``t`` and the
rotation ``R`` about ``c`` are the motion of the head since the reference.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

HEAD_RADIUS = 50.0  # mm, of the sphere on which rotations become lengths (Power et al.)
PARAMETERS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def motion_parameters(matrix: Float[ndarray, "4 4"], centre: Float[ndarray, "3"]) -> Float[ndarray, "6"]:
    """The shift in millimetres and the angles in radians of a rigid map.

    Args:
        matrix: reference to volume, RAS millimetres.
        centre: ``c``, RAS millimetres.
    """
    angles = Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz")
    shift = matrix[:3, :3] @ centre + matrix[:3, 3] - centre
    found: ndarray = np.concatenate([shift, angles])
    return found


def motion_matrix(parameters: Float[ndarray, "6"], centre: Float[ndarray, "3"]) -> Float[ndarray, "4 4"]:
    """The inverse of :func:`motion_parameters`."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", parameters[3:]).as_matrix()
    matrix[:3, 3] = centre + parameters[:3] - matrix[:3, :3] @ centre
    return matrix


def framewise_displacement(parameters: Float[ndarray, "volumes 6"]) -> Float[ndarray, " volumes"]:
    """``FD_i = sum |t_i - t_(i-1)| + 50 mm sum |r_i - r_(i-1)|``, millimetres; NaN for the first volume.

    Power et al., NeuroImage 2012, doi:10.1016/j.neuroimage.2011.10.018.

    Args:
        parameters: of each volume, as of :func:`motion_parameters`.
    """
    steps = np.abs(np.diff(parameters, axis=0))
    found: ndarray = np.concatenate([[np.nan], steps[:, :3].sum(1) + HEAD_RADIUS * steps[:, 3:].sum(1)])
    return found

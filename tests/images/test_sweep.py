"""The sweep of formats agrees with nibabel and SimpleITK in one orientation; `make formats` has them all."""

import sys

import numpy as np
from project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import formats


def test_every_format_in_and_out() -> None:
    rows = list(formats.sweep(["oblique, left-handed"], [np.int16]))
    assert {row.direction for row in rows} == {"in", "out"}
    assert len(rows) == len(formats.IN) + len(formats.OUT)
    assert not [row for row in rows if row.differ or not row.apart < formats.TOLERANCE_MM]


def test_a_difference_is_seen() -> None:
    (case,) = formats.cases(["oblique"], [(9, 8, 7)], [np.int16])
    moved, other = case.affine.copy(), case.voxels.copy()
    moved[0, 3] += 2
    other[1, 2, 3] += 1
    assert formats.difference(case, case) == (False, 0)
    assert formats.difference(case, case._replace(affine=moved)) == (False, 2)
    assert formats.difference(case, case._replace(voxels=other))[0]
    assert formats.difference(case, case._replace(voxels=case.voxels[:-1]))[0]

"""Registration inside a MONAI pipeline."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

import crossmorph
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.integrations.monai import Registerd


def test_a_pipeline_gives_what_register_gives(phantom):
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    files = {"moving": pair.moving, "fixed": pair.fixed, "labels": pair.moving_labels}
    keys = list(files)
    pipeline = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), Registerd("moving", "fixed", labels=["labels"])])
    done = pipeline({key: str(files[key]) for key in keys})
    expected = crossmorph.register(files["moving"], files["fixed"])
    np.testing.assert_allclose(done["transform"].displacement, expected.transform.displacement, atol=1e-3)
    np.testing.assert_allclose(done["moving"][0].numpy(), expected.moved.data.squeeze(), atol=1e-3)
    labels = expected.apply(files["labels"], "nearest")
    assert (done["labels"][0].numpy() == labels.data.squeeze()).mean() > 0.999
    torch.testing.assert_close(done["moving"].affine, done["fixed"].affine)
    assert [each.name for each in done["checks"]] == [each.name for each in expected.checks]


@pytest.mark.parametrize(
    ("moving", "received"),
    [
        (None, "received None"),
        (torch.zeros(1, 8, 8), "Tensor of shape (1, 8, 8)"),
        (MetaTensor(torch.zeros(2, 8, 8)), "(2, 8, 8)"),
    ],
)
def test_what_is_no_image_is_refused_by_its_key(moving, received):
    with pytest.raises(InputError, match="moving: received") as caught:
        Registerd("moving", "fixed")({"moving": moving, "fixed": MetaTensor(torch.zeros(1, 8, 8))})
    assert received in str(caught.value)

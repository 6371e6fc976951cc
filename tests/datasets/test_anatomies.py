"""Label maps of people as one set: tables, the common space, what is refused, splits."""

import json

import nibabel
import numpy as np
import pytest
from people_scene import LABELS, draw_head, draw_people, save

from crossmorph.datasets.anatomies import load_anatomies, load_map, prepare_anatomies
from crossmorph.datasets.common_space import BRAIN_CENTRE, BRAIN_SPREAD, CENTRES, Spread, to_common
from crossmorph.datasets.label_tables import BUILT_IN, built_in_table, read_table, table_of
from crossmorph.errors import InputError

SLACK = 4.0  # mm, a voxel
AVERAGE = Spread(np.array(BRAIN_CENTRE), np.array(BRAIN_SPREAD))


def test_a_structure_means_the_same_in_every_table():
    meaning = {}
    for name in BUILT_IN:
        for structure in built_in_table(name).values():
            if name != "tissues":
                assert meaning.setdefault(structure.name, structure[:3]) == structure[:3]
    both_sides = [name for name in meaning if name.startswith("left ")]
    assert len(both_sides) > 70
    assert all(f"right {name.removeprefix('left ')}" in meaning for name in both_sides)
    assert set(CENTRES) <= meaning.keys() | {structure.whole for structure in built_in_table("muse").values()}


@pytest.mark.parametrize(("labels", "name"), [([1, 2, 3], "tissues"), ([2, 41, 511], "aseg"), ([1, 35, 207], "muse")])
def test_the_table_is_recognised_by_the_labels(labels, name):
    assert table_of(labels).name == name


def test_labels_of_no_table_are_named():
    with pytest.raises(InputError, match="label 9999 is not in tissues or aseg or muse"):
        table_of([2, 41, 9999])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,structure,tissue\n1,x,gm\n", "lacks the column signal"),
        ("label,structure,tissue,signal\n", "has no rows"),
        ("label,structure,tissue,signal\n0,x,gm,cortex\n", "expected a whole number above 0"),
        ("label,structure,tissue,signal\n1,,gm,cortex\n", "no structure"),
        ("label,structure,tissue,signal\n1,x,grey,cortex\n", "tissue 'grey'; expected one of csf, gm, wm, head"),
        ("label,structure,tissue,signal\n1,x,gm,shiny\n", "signal 'shiny'"),
        ("label,structure,tissue,signal\n1,x,gm,cortex\n1,y,gm,cortex\n", "occurs a second time"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_line(tmp_path, text, said):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_table(path)


def test_the_common_space_undoes_any_affine_map():
    matrix = np.array([[0.9, 0.2, -0.1, 5], [-0.2, 1.1, 0.1, -8], [0, -0.3, 0.95, 20], [0, 0, 0, 1]])
    inverse = np.linalg.inv(matrix)
    centres = {name: nibabel.affines.apply_affine(inverse, centre) for name, centre in CENTRES.items()}
    np.testing.assert_allclose(to_common(centres, AVERAGE), matrix, atol=1e-9)


def test_without_structures_the_brain_is_centred_and_scaled_along_its_axes():
    size, shift = np.array([1.1, 0.9, 1.2]), np.array([3.0, -4.0, 10.0])
    matrix = to_common({}, Spread(AVERAGE.centre * size + shift, AVERAGE.deviation * size))
    np.testing.assert_allclose(matrix[:3, :3], np.diag(1 / size), atol=1e-9)
    np.testing.assert_allclose(nibabel.affines.apply_affine(matrix, shift), 0, atol=1e-9)


def test_exchanged_sides_and_wrong_sizes_are_refused():
    centres = {name: np.array(centre) for name, centre in CENTRES.items()}
    with pytest.raises(InputError, match="left and right are exchanged"):
        to_common({name: centre * [-1, 1, 1] for name, centre in centres.items()}, AVERAGE)
    with pytest.raises(InputError, match=r"2\.00 of an average head"):
        to_common({name: centre * 2 for name, centre in centres.items()}, AVERAGE)


def test_maps_of_any_orientation_become_one_set(tmp_path):
    labels, affine = draw_head(swell=1.1, moved=(4, 0, -6))
    save(tmp_path / "maps" / "upright.nii.gz", labels, affine)
    turned = nibabel.Nifti1Image(labels, affine).as_reoriented([[1, -1], [2, 1], [0, -1]])
    save(tmp_path / "maps" / "deeper" / "turned.nii", np.asarray(turned.dataobj), turned.affine)
    prepared = prepare_anatomies([tmp_path / "maps"], tmp_path / "set")
    assert prepared.refused == {}
    anatomies = load_anatomies(tmp_path / "set")
    assert [person.name for person in anatomies.people] == ["turned", "upright"]
    maps = [load_map(anatomies, person) for person in anatomies.people]
    np.testing.assert_array_equal(maps[0].labels, maps[1].labels)
    np.testing.assert_allclose(maps[0].affine, maps[1].affine, atol=1e-4)
    for person, (codes, place) in zip(anatomies.people, maps, strict=True):
        assert person.whole
        for name in ("left thalamus", "right caudate", "brain stem"):
            code = next(k for k, structure in enumerate(anatomies.structures, start=1) if structure.name == name)
            own = nibabel.affines.apply_affine(place, np.argwhere(codes == code)).mean(0)
            np.testing.assert_allclose(own, np.array(CENTRES[name]) * 1.1 + (4, 0, -6), atol=SLACK)
            common = nibabel.affines.apply_affine(person.to_common, own)
            np.testing.assert_allclose(common, CENTRES[name], atol=6)


def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path):
    folder = tmp_path / "maps"
    labels, affine = draw_head()
    save(folder / "good.nii.gz", labels, affine)
    save(folder / "mirrored.nii.gz", labels[::-1], affine)
    save(folder / "empty.nii.gz", labels * 0, affine)
    save(folder / "scan.nii.gz", labels.astype(np.float32) / 7, affine)
    save(folder / "small.nii.gz", labels[:8], affine)
    save(folder / "thick.nii.gz", labels, affine @ np.diag([1, 1, 2, 1]))
    save(folder / "strange.nii.gz", labels + 5000 * (labels > 0), affine)
    save(folder / "skull.nii.gz", np.where(labels == LABELS["bone"], labels, 0), affine)
    save(folder / "doll.nii.gz", labels, np.diag([0.5, 0.5, 0.5, 1]) @ affine)
    (folder / "notes.txt").write_text("not a map")
    (folder / "torn.nii.gz").write_bytes(b"torn")
    prepared = prepare_anatomies([folder], tmp_path / "set")
    assert [person.name for person in prepared.anatomies.people] == ["good"]
    index = json.loads((tmp_path / "set" / "anatomies.json").read_text())
    said = {
        "mirrored.nii.gz": "left and right are exchanged",
        "empty.nii.gz": "is empty",
        "scan.nii.gz": "not whole numbers",
        "small.nii.gz": "expected three axes of 16 or more voxels",
        "thick.nii.gz": "8 mm; expected three axes",
        "strange.nii.gz": "is not in tissues or aseg or muse",
        "skull.nii.gz": "0.00 litres of grey and white matter",
        "doll.nii.gz": "litres of grey and white matter",
        "torn.nii.gz": "",
    }
    assert index["refused"].keys() == said.keys()
    for name, reason in said.items():
        assert reason in index["refused"][name]


def test_no_usable_map_is_an_error_that_names_the_first(tmp_path):
    save(tmp_path / "maps" / "empty.nii.gz", np.zeros((20, 20, 20), np.int16), np.eye(4))
    with pytest.raises(InputError, match=r"no label map that can be used; the first: .*empty\.nii\.gz: is empty"):
        prepare_anatomies([tmp_path / "maps"], tmp_path / "set")
    with pytest.raises(InputError, match="is no folder"):
        prepare_anatomies([tmp_path / "nowhere"], tmp_path / "set")


def test_an_own_table_gives_the_labels_their_meaning(tmp_path):
    labels, affine = draw_head(whole=False)
    own = np.select([labels == 24, np.isin(labels, (2, 41)), labels > 0], [7, 9, 8])
    save(tmp_path / "maps" / "mine.nii.gz", own.astype(np.int16), affine)
    table = tmp_path / "table.csv"
    table.write_text("label,structure,tissue,signal\n7,water,csf,csf\n8,bark,gm,cortex\n9,wood,wm,white matter\n")
    anatomies = prepare_anatomies([tmp_path / "maps"], tmp_path / "set", table=table).anatomies
    assert [structure.name for structure in anatomies.structures] == ["water", "bark", "wood"]
    assert not anatomies.people[0].whole


def test_lesions_beside_a_map_are_laid_over_it(tmp_path):
    labels, affine = draw_head(whole=False)
    tissues = np.select([labels == 24, np.isin(labels, (2, 41)), labels > 0], [1, 3, 2]).astype(np.int16)
    lesion = np.zeros_like(tissues)
    lesion[30:33, 28:31, 30:33] = 1
    save(tmp_path / "maps" / "one_tissues.nii.gz", tissues, affine)
    save(tmp_path / "maps" / "one_lesions.nii.gz", lesion, affine)
    anatomies = prepare_anatomies([tmp_path / "maps"], tmp_path / "set").anatomies
    (person,) = anatomies.people
    assert person.name == "one_tissues"
    code = [structure.name for structure in anatomies.structures].index("lesion") + 1
    assert (load_map(anatomies, person).labels == code).sum() == 27


def test_splits_are_by_person(tmp_path):
    splits = draw_people(tmp_path / "maps")
    save(tmp_path / "maps" / "ann_later.nii.gz", *draw_head(moved=(0, 4, 0)))
    save(tmp_path / "maps" / "annex.nii.gz", *draw_head(moved=(0, 8, 0)))
    prepared = prepare_anatomies([tmp_path / "maps"], tmp_path / "set", splits=splits)
    found = {person.name: (person.person, person.split) for person in prepared.anatomies.people}
    assert found["ann_later"] == found["ann"] == ("ann", "train")
    assert found["dia"] == ("dia", "validation")
    assert [reason for reason in prepared.refused.values() if "no person of the list" in reason]
    splits.write_text("person,split\nann,train\nann,test\n")
    with pytest.raises(InputError, match="ann stands in train and test"):
        prepare_anatomies([tmp_path / "maps"], tmp_path / "other", splits=splits)


def test_without_a_list_visits_of_a_person_share_a_split(tmp_path):
    labels, affine = draw_head(whole=False)
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02", "sub-03"):
        save(tmp_path / "maps" / f"{name}.nii.gz", labels, affine)
    splits = set()
    for seed in range(3):
        people = prepare_anatomies([tmp_path / "maps"], tmp_path / f"set{seed}", seed=seed).anatomies.people
        assert people[0].person == people[1].person == "sub-01"
        assert people[0].split == people[1].split
        splits |= {person.split for person in people}
    assert len(splits) > 1

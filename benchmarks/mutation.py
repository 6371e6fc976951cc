"""Small valid files of every kind that is read, and seeded ways of damaging them; `fuzz.py` reads what comes out.

A case is a set of files, ``{name: content}``, of which one is damaged. Where a format packs or signs its content, the
damage is done to what is inside as often as to the file, or no reader would ever get past the checksum.
"""

import gzip
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import yaml
from numpy.random import Generator

from crossmorph import Image, write_image
from crossmorph.networks.checkpoint import Card, save_model, save_tensors
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.pyramid import PyramidSpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.registration.settings import Settings
from crossmorph.transforms.affine_files import write_affine_transform
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.register_files import Outputs, register_files

Files = dict[str, bytes]

PLANE, VOLUME = (7, 6), (6, 5, 4)
OBLIQUE = np.array([[0.9, -0.3, 0, -10], [0.3, 0.9, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
FLAT = OBLIQUE[np.ix_([0, 1, 3], [0, 1, 3])]
NUMBERS = [0, 1, -1, 2, 127, 128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63)]
REALS = [0.0, -0.0, 1e-45, 1e-30, 1e30, 3.4e38, 1.7e308, np.inf, -np.inf, np.nan]
WORDS = ["0", "-1", "1", "nan", "inf", "-inf", "1e400", "1e-400", "99999999999", "18446744073709551616", "-2147483648"]
WORDS += ["65536", "1e9", "{}", "[]", "null", "true"]
TOKENS = {
    "mha": ["NDims = 9", "DimSize = 65535 65535 65535", "CompressedData = True", "ElementDataFile = LIST", "\n", "="],
    "nrrd": ["dimension: 16", "sizes: 99999 99999 99999", "encoding: gzip", "encoding: bzip2", "line skip: 9", "\n\n"],
    "tfm": ["Transform: CompositeTransform_double_3_3", "Parameters:", "FixedParameters: 0 0 0", "#", "\n"],
    "lta": ["type = 0", "nxforms = 999999", "1 4 4", "src volume info", "valid = 1", "volume = 0 0 0", "\n"],
    "csv": [",", '"', "\n", "\0", "../../escape.nii", "/etc/passwd", "name", "moving", "x,y,z", "\ufeff", "é" * 300],
    "yaml": ["&a ", "*a", "!!python/object/apply:os.system ['true']", "<<: ", "[" * 200, "{", "- ", ": ", "\t", "%"],
    "json": ["[" * 200, "{", '"', "\\u0000", "1e999", "NaN", ",", "[[[", '{"a":'],
}


def seeds(folder: Path) -> dict[str, list[Files]]:
    """Valid sets of files by kind; ``folder`` is an empty one to make them in."""
    made: dict[str, list[Files]] = {}

    def keep(kind: str, *paths: Path) -> None:
        made.setdefault(kind, []).append({path.name: path.read_bytes() for path in paths})

    _images(folder, keep)
    _transforms(folder, keep)
    made["dicom"] = [_dicom(folder / "series")]
    made["pairs.csv"] = [
        {
            "a.csv": b"name,moving,fixed,moving_labels\none,m.nii,f.nii,m.nii\ntwo,f.nii,m.nii,\n",
            "m.nii": b"moving",
            "f.nii": b"fixed",
        }
    ]
    made["points .csv"] = [
        {"a.csv": b"x,y,z,t,label,comment\n1.5,-2,3,0,1,left\n4,5,6e1,0,2,\n"},
        {"a.csv": b"label,r,a,s,defined\nF-1,1.5,-2,3,1\nF-2,4,5,6,1\n"},
    ]
    head = b"# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,label\n"
    made["points .fcsv"] = [{"a.fcsv": head + b"0,1,2,3,0,F-1\n1,4,5,6,0,F-2\n"}]
    made["config .yaml"] = [{"a.yaml": CONFIG.encode()}]
    made["model"] = [_model(folder / "model")]
    made["record"] = [_record(folder)]
    made["brainweb"] = _brainweb()
    made["brats"] = [_brats(folder, suffix) for suffix in (".mha", ".nii.gz")]
    return made


def _images(folder: Path, keep: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    plane, volume = (Image(rng.random(shape).astype(np.float32) * 200, affine) for shape, affine in
                     ((PLANE, FLAT), (VOLUME, OBLIQUE)))  # fmt: skip
    for suffix in (".nii", ".nii.gz", ".mha", ".nrrd"):
        for image in (plane, volume, Image(volume.data.astype(np.int16), volume.affine)):
            write_image(folder / f"a{suffix}", image)
            keep(suffix, folder / f"a{suffix}")
    for suffix in (".png", ".tif"):
        for dtype in (np.uint8, np.uint16):
            levels = (plane.data * (200 if dtype == np.uint16 else 1)).astype(dtype)
            write_image(folder / f"a{suffix}", Image(levels, FLAT))
            keep(suffix, folder / f"a{suffix}")
    nibabel.save(nibabel.Nifti2Image(volume.data, OBLIQUE), folder / "a.nii")
    keep(".nii", folder / "a.nii")
    nibabel.save(nibabel.Nifti1Image(rng.random((5, 4, 3, 2)).astype(np.float32), OBLIQUE), folder / "a.nii")
    keep(".nii", folder / "a.nii")
    theirs = sitk.GetImageFromArray(volume.data.T)
    for suffix, voxels, packed in ((".mhd", "a.raw", "a.zraw"), (".nhdr", "a.raw", "a.raw.gz")):
        for compressed in (False, True):
            sitk.WriteImage(theirs, str(folder / f"a{suffix}"), compressed)
            keep(suffix, folder / f"a{suffix}", folder / (packed if compressed else voxels))
    sitk.WriteImage(theirs, str(folder / "a.mnc"))
    keep(".mnc", folder / "a.mnc")
    # Version 1, which ITK no longer writes.
    old = (Path(nibabel.__file__).parent / "tests" / "data" / "tiny.mnc").read_bytes()
    (folder / "a.mnc").write_bytes(old)
    (folder / "a.mnc.gz").write_bytes(gzip.compress(old, mtime=0))
    keep(".mnc", folder / "a.mnc")
    keep(".mnc.gz", folder / "a.mnc.gz")


def _transforms(folder: Path, keep: Callable[..., None]) -> None:
    rng = np.random.default_rng(1)
    warps = [Warp(rng.normal(size=(2, *PLANE)), FLAT), Warp(rng.normal(size=(3, *VOLUME)), OBLIQUE)]
    for suffix in (".nii.gz", ".h5"):
        for warp in warps:
            write_transform(folder / f"a{suffix}", warp)
            keep(f"warp {suffix}", folder / f"a{suffix}")
    for suffix in (".h5", ".tfm", ".mat", ".txt"):
        for matrix in (OBLIQUE, FLAT):
            write_affine_transform(folder / f"a{suffix}", matrix)
            keep(f"affine {suffix}", folder / f"a{suffix}")
    np.savetxt(folder / "a.mat", OBLIQUE)
    keep("affine .mat", folder / "a.mat")
    composite = sitk.CompositeTransform([sitk.Euler3DTransform((1, 2, 3), 0.1), sitk.AffineTransform(3)])
    sitk.WriteTransform(composite, str(folder / "a.tfm"))
    keep("affine .tfm", folder / "a.tfm")
    spline = sitk.BSplineTransform(2)
    spline.SetTransformDomainMeshSize((2, 2))
    sitk.WriteTransform(spline, str(folder / "a.tfm"))
    keep("affine .tfm", folder / "a.tfm")
    theirs = [sitk.AffineTransform(2), sitk.DisplacementFieldTransform(sitk.Image((5, 4), sitk.sitkVectorFloat64))]
    sitk.WriteTransform(sitk.CompositeTransform(theirs), str(folder / "a.h5"))
    keep("warp .h5", folder / "a.h5")
    sitk.WriteTransform(theirs[1], str(folder / "a.tfm"))
    keep("affine .tfm", folder / "a.tfm")
    (folder / "a.lta").write_text(LTA)
    keep("affine .lta", folder / "a.lta")


def _dicom(folder: Path) -> Files:
    folder.mkdir()
    image = sitk.GetImageFromArray(np.arange(5 * 6 * 3, dtype=np.int16).reshape(3, 6, 5))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(3):
        one = image[:, :, k]
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0018": f"1.2.3.{k}", "0008|0060": "MR"}
        tags |= {"0020|0032": f"0\\0\\{3 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(k)}
        for key, value in tags.items():
            one.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(one)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _model(folder: Path) -> Files:
    small = UNetSpec(encoder=(2, 3), decoder=(3, 2), final=(2,))
    pyramid = PyramidSpec(features=(2, 3), hidden=(0, 3), radius=(1, 1))
    spec = HierarchySpec(coarse=pyramid, translator=small, fine=small, translator_sees="moving")
    card = Card(
        name="a", description="small", hierarchy=spec, shape=(16, 16), spacing=1.5, training={"seed": 1}, data={},
        scores={"dice": 0.5}, environment={}, sha256="",
    )  # fmt: skip
    hierarchy = Hierarchy(spec)
    save_model(folder, hierarchy, card)
    tensors = {f"weights.{name}": tensor for name, tensor in hierarchy.state_dict().items()}
    save_tensors(folder / "checkpoint.safetensors", tensors, {"stage": "1", "step": "3"})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _record(folder: Path) -> Files:
    paths = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    for path, seed in zip(paths, (0, 1), strict=True):
        write_image(path, Image(np.random.default_rng(seed).random((24, 20)).astype(np.float32), FLAT))
    outputs = Outputs(folder / "moved.nii.gz", folder / "a.h5")
    register_files(*paths, outputs, settings=Settings("none"), keep_failed=True)
    return {"a.json": (folder / "a.json").read_bytes()}


def _brainweb() -> list[Files]:
    """Files by the site's names, of the grid ``VOLUME``: a head cut at the neck and its labels."""
    labels = np.zeros(VOLUME[::-1], np.uint8)  # z, y, x
    labels[:3, 1:-1, 1:-1] = 3
    image = (labels * 80).astype(np.uint8)
    names = {
        "t1_icbm_normal_1mm_pn3_rf20.rawb": image.tobytes(),
        "t2_icbm_normal_1mm_pn3_rf20.raws": (image.astype("<u2") * 16).tobytes(),
        "phantom_1.0mm_normal_crisp.rawb": labels.tobytes(),
        "phantom_1.0mm_normal_gry.rawb": image.tobytes(),
    }
    return [names, {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in names.items()}]


def _brats(folder: Path, suffix: str) -> Files:
    rng = np.random.default_rng(2)
    voxels = (rng.random(VOLUME) * 200).astype(np.int16)
    path = folder / f"a{suffix}"
    write_image(path, Image(voxels, OBLIQUE))
    image = path.read_bytes()
    write_image(path, Image((voxels > 150).astype(np.uint8), OBLIQUE))
    if suffix == ".mha":
        return {"VSD.Brain.XX.O.MR_T1.1.mha": image, "VSD.Brain.XX.O.MR_T2.2.mha": image,
                "VSD.Brain_3more.XX.O.OT.3.mha": path.read_bytes()}  # fmt: skip
    stem = "BraTS2021_00001"
    return {f"{stem}_t1{suffix}": image, f"{stem}_t2{suffix}": image, f"{stem}_seg{suffix}": path.read_bytes()}


CONFIG = """name: small
output: runs/small
data: {train: train.csv, validation: val.csv, shape: [64, 64], spacing: 3.0, augment: {flip: true, gamma: 0.1}}
hierarchy:
  coarse: {kind: pyramid, features: [12, 16], hidden: [0, 16], radius: [1, 2], control_spacing: 8}
  translator: {kind: unet, encoder: [8, 16], decoder: [16, 8], final: [8]}
similarity: mi
weights: {coarse_smoothness: 0.1, fine_error: 10}
batch: 4
stages:
  coarse: {iterations: 3, learning_rate: 2.0e-3}
seed: 0
"""

LTA = """type = 1
nxforms = 1
mean = 0.0 0.0 0.0
sigma = 1.0
1 4 4
0.9 -0.3 0 -10
0.3 0.9 0 20
0 0 1 30
0 0 0 1
src volume info
valid = 1  # volume info valid
filename = a.mgz
volume = 6 5 4
voxelsize = 1 1 1
xras = 1 0 0
yras = 0 1 0
zras = 0 0 1
cras = 0 0 0
dst volume info
valid = 1  # volume info valid
filename = b.mgz
volume = 6 5 4
voxelsize = 1 1 1
xras = 1 0 0
yras = 0 1 0
zras = 0 0 1
cras = 0 0 0
subject x
fscale 0.1
"""


# --- damage ----------------------------------------------------------------------------------------------------------


def damage(rng: Generator, kind: str, files: Files, others: list[Files]) -> Files:
    """The files with one of them damaged.

    Args:
        rng: decides everything.
        kind: of the files, as :func:`seeds` names it.
        files: valid ones.
        others: further ones of the kind, to take pieces of.
    """
    names = [name for name in files if kind != "pairs.csv" or name.endswith(".csv")]
    name = str(rng.choice(names))
    donor = others[rng.integers(len(others))].get(name, files[name])
    content = _inside(rng, name, files[name], donor) if rng.random() < 0.6 else None
    if content is None:
        content = mutate(rng, files[name], donor, _tokens(name))
    damaged = {**files, name: content}
    return _signed(damaged) if kind == "model" and rng.random() < 0.8 else damaged


def mutate(rng: Generator, content: bytes, donor: bytes, tokens: list[str]) -> bytes:
    """Bytes after one to four random changes, most of them near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        CHANGES[rng.integers(len(CHANGES))](rng, data, donor, tokens)
    return bytes(data)


def _place(rng: Generator, data: bytearray) -> int:
    reach = len(data) if rng.random() < 0.5 else min(len(data), int(rng.choice([16, 128, 512])))
    return int(rng.integers(reach)) if reach else 0


def _flip(rng: Generator, data: bytearray, _: bytes, __: list[str]) -> None:
    for _ in range(int(rng.choice([1, 1, 2, 8]))):
        if data:
            data[_place(rng, data)] ^= 1 << int(rng.integers(8))


def _truncate(rng: Generator, data: bytearray, _: bytes, __: list[str]) -> None:
    del data[_place(rng, data) :]


def _splice(rng: Generator, data: bytearray, donor: bytes, _: list[str]) -> None:
    source = donor if rng.random() < 0.5 else bytes(data)
    start, length = _place(rng, bytearray(source)), int(rng.choice([1, 4, 16, 64, 256]))
    at = _place(rng, data)
    data[at : at + (length if rng.random() < 0.5 else 0)] = source[start : start + length] * int(rng.choice([1, 1, 20]))


def _remove(rng: Generator, data: bytearray, _: bytes, __: list[str]) -> None:
    at = _place(rng, data)
    del data[at : at + int(rng.choice([1, 2, 8, 64]))]


def _field(rng: Generator, data: bytearray, _: bytes, __: list[str]) -> None:
    order, kind = rng.choice(["<", ">"]), str(rng.choice(list("bhiqfd")))
    size = struct.calcsize(kind)
    at = _place(rng, data) // size * size
    if kind in "fd":
        with np.errstate(over="ignore"):
            packed = np.array(rng.choice(REALS), f"{order}f{size}").tobytes()
    else:
        number = int(rng.choice(np.array(NUMBERS, object))) % 256**size
        packed = number.to_bytes(size, "little" if order == "<" else "big")
    data[at : at + size] = packed


def _token(rng: Generator, data: bytearray, _: bytes, tokens: list[str]) -> None:
    at, token = _place(rng, data), str(rng.choice(tokens or WORDS)).encode()
    data[at : at + (len(token) if rng.random() < 0.5 else 0)] = token


def _number(rng: Generator, data: bytearray, _: bytes, __: list[str]) -> None:
    found = list(re.finditer(rb"-?\d+\.?\d*(e[-+]?\d+)?", bytes(data[:4096])))
    if found:
        one = found[rng.integers(len(found))]
        data[one.start() : one.end()] = str(rng.choice(WORDS)).encode()


ALIKE = {"mhd": "mha", "nhdr": "nrrd", "txt": "tfm", "fcsv": "csv"}
CHANGES = [_flip, _truncate, _splice, _remove, _field, _field, _token, _number]


def _tokens(name: str) -> list[str]:
    suffix = name.rsplit(".", 1)[-1]
    return TOKENS.get(ALIKE.get(suffix, suffix), []) + WORDS


def _inside(rng: Generator, name: str, content: bytes, donor: bytes) -> bytes | None:
    """Damage to what a format packs, in a sound package; None where it packs nothing."""
    if name.endswith(".gz"):
        changed = mutate(rng, gzip.decompress(content), gzip.decompress(donor), [])
        return gzip.compress(changed, 1, mtime=0)
    if name.endswith(".png"):
        return _png(rng, content)
    if name.endswith(".json"):
        return json.dumps(_graft(rng, json.loads(content))).encode()
    if name.endswith(".yaml"):
        return yaml.safe_dump(_graft(rng, yaml.safe_load(content))).encode()
    if name.endswith(".safetensors"):
        length = int.from_bytes(content[:8], "little")
        header, rest = content[8 : 8 + length], content[8 + length :]
        if rng.random() < 0.5:
            changed = json.dumps(_graft(rng, json.loads(header))).encode()
        else:
            changed = mutate(rng, header, header, TOKENS["json"])
        return len(changed).to_bytes(8, "little") + changed + rest
    return None


def _png(rng: Generator, content: bytes) -> bytes:
    """A picture of which one chunk is damaged and has the right checksum."""
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = int(rng.integers(len(chunks)))
    kind, body = chunks[chosen]
    if kind == b"IDAT":
        body = zlib.compress(mutate(rng, zlib.decompress(body), body, []))
    else:
        body = mutate(rng, body, body, [])
    chunks[chosen] = kind, body
    packed = (len(b).to_bytes(4, "big") + k + b + zlib.crc32(k + b).to_bytes(4, "big") for k, b in chunks)
    return content[:8] + b"".join(packed)


def _graft(rng: Generator, node: object) -> object:
    """A document of which one branch, at any depth, is another value."""
    if isinstance(node, dict) and node and rng.random() < 0.8:
        key = list(node)[rng.integers(len(node))]
        if rng.random() < 0.1:
            return {name: value for name, value in node.items() if name != key}
        return {**node, key: _graft(rng, node[key])}
    if isinstance(node, list) and node and rng.random() < 0.7:
        at = int(rng.integers(len(node)))
        return [*node[:at], _graft(rng, node[at]), *node[at + 1 :]]
    values = [None, True, "", "x" * 1000, {}, [], [node] * 50, {"a": node}, "../..", float("nan"), 1e308, *NUMBERS]
    return values[rng.integers(len(values))]


def _signed(files: Files) -> Files:
    """A model whose card, if it is one, names the SHA-256 of the weights that are there."""
    try:
        card = json.loads(files["a.json"])
        card["sha256"] = hashlib.sha256(files["a.safetensors"]).hexdigest()
        return {**files, "a.json": json.dumps(card).encode()}
    except (ValueError, TypeError):
        return files

"""One reader in pure Python under `atheris`, which lets coverage guide the damage; `fuzz.py --atheris` starts it.

``python benchmarks/fuzz_coverage.py KIND FOLDER [options of libFuzzer]``: what is found is written to ``FOLDER``.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["crossmorph", "yaml", "csv", "nitransforms"], enable_loader_override=False):
    import crossmorph.datasets.pairs
    import crossmorph.training.config
    import crossmorph.transforms.affine_files
    import crossmorph.workflows.transform_points  # noqa: F401

import fuzz
import mutation


def main() -> None:
    kind, findings, *options = sys.argv[1:]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="crossmorph-atheris-", dir=fuzz.MEMORY_DISK) as temporary:
        folder = Path(temporary)
        (folder / "made").mkdir()
        (folder / "corpus").mkdir()
        valid = mutation.seeds(folder / "made")[kind]
        for number, files in enumerate(valid):
            (folder / "corpus" / str(number)).write_bytes(files[fuzz.GUIDED[kind]])

        def read(content: bytes) -> None:
            case = fuzz.Case("guided", kind, {**valid[0], fuzz.GUIDED[kind]: content})
            ending = fuzz.end_of(case, folder / "case")
            if ending not in ("read", "refused"):
                raise RuntimeError(ending)

        artifacts = f"-artifact_prefix={findings}/"
        atheris.Setup([sys.argv[0], artifacts, *options, str(folder / "corpus")], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

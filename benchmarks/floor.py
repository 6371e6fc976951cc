"""Our time beside what the networks' arithmetic alone would take here: ``python benchmarks/floor.py``.

The floor is the networks' floating-point operations (counted by PyTorch, convolutions and matrix products) at the rate
that this machine reaches in convolutions of the networks' middle size, on one thread. Prints both, stage by stage, as
the median of many runs.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from crossmorph import DEFAULT_MODELS, load_model
from crossmorph.networks.affine import same_place
from crossmorph.networks.hierarchy import Hierarchy

RUNS = 30
SHAPE = (128, 128)


def onednn_flops(image: tuple[int, ...], weight: tuple[int, ...], *_: object, out_shape: tuple[int, ...]) -> int:
    """Of a convolution that is left to oneDNN, which PyTorch does not count: two for every weight and every output."""
    return 2 * math.prod(weight) * image[0] * math.prod(out_shape[2:])


ONEDNN = {torch.ops.aten.mkldnn_convolution: onednn_flops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME")
    hierarchy = load_model(parser.parse_args().model).hierarchy
    torch.set_num_threads(1)
    with torch.inference_mode():
        rate = convolution_rate()
        print(f"convolutions reach {rate / 1e9:.1f} GFLOP/s on one thread\n")
        print("| stage | MFLOP | floor (ms) | measured (ms) | ratio |\n|---|---|---|---|---|")
        for name, stage in stages(hierarchy).items():
            with FlopCounterMode(display=False, custom_mapping=ONEDNN) as counter:
                stage()
            floor, measured = counter.get_total_flops() / rate, median_seconds(stage)
            print(
                f"| {name} | {counter.get_total_flops() / 1e6:.0f} | {1e3 * floor:.1f} | {1e3 * measured:.1f} | "
                f"{measured / floor:.1f} |"
            )


def stages(hierarchy: Hierarchy) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    moving, fixed = (torch.rand(1, 1, *SHAPE, generator=generator) for _ in range(2))
    coarse = hierarchy.register_coarse(moving, fixed)
    translated = moving + hierarchy.translate(moving, fixed, coarse)
    return {
        **({"affine": lambda: hierarchy.register_affine(moving, fixed, same_place(fixed))} if hierarchy.affine else {}),
        "coarse": lambda: hierarchy.register_coarse(moving, fixed),
        "translation": lambda: hierarchy.translate(moving, fixed, coarse),
        "fine": lambda: hierarchy.register_fine(moving, fixed, translated, coarse),
        "all but affine": lambda: hierarchy(moving, fixed),
    }


def convolution_rate() -> float:
    """Floating-point operations a second of a 3 x 3 convolution of 32 channels at half resolution."""
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)
    image = torch.rand(1, 32, *(size // 2 for size in SHAPE)).to(memory_format=torch.channels_last)
    operations = 2 * 32 * 32 * 9 * image[0, 0].numel()
    return operations / median_seconds(lambda: layer(image))


def median_seconds(call: Callable[[], object]) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()

"""Versions of the software, and the hardware."""

import platform
from importlib import metadata, util
from pathlib import Path

import torch

from crossmorph.errors import InputError

# Modules that an extra of the installation brings, by its name.
EXTRAS = {
    "onnx": ("onnx", "onnxscript"),
    "report": ("matplotlib",),
    "simulate": ("nilearn",),
    "train": ("lightning_fabric", "tensorboard"),
}
PACKAGES = ("crossmorph", "torch", "numpy", "lightning-fabric", "nibabel", "SimpleITK")


def require_extra(extra: str) -> None:
    """Refuse to go on without an extra of the installation. Raises InputError that says how to install it."""
    missing = [module for module in EXTRAS[extra] if util.find_spec(module) is None]
    if missing:
        # Within quotes that every shell knows, that of Windows too.
        raise InputError(f'{", ".join(missing)} not installed; expected the extra: pip install "crossmorph[{extra}]"')


def environment() -> dict[str, str]:
    """Versions and hardware, to be stored with results."""
    installed = {each.name for each in metadata.distributions()}
    versions = {package: metadata.version(package) for package in PACKAGES if package in installed}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "hardware": hardware,
        "threads": str(torch.get_num_threads()),
    }


LIBRARIES = ("crossmorph", "torch", "numpy", "scipy", "nibabel", "SimpleITK")


def versions() -> dict[str, str]:
    """Versions of the software and the processor's instructions, on which the bits of a result may depend."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    found |= {"Python": platform.python_version(), "platform": platform.platform()}
    return found | {"instructions": torch.backends.cpu.get_cpu_capability()}


def processor() -> str:
    """Name of the processor, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

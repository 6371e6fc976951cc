"""The page of the package on PyPI: the README, whose links and pictures lead to the repository."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/crossmorph/crossmorph"


def absolute(link: re.Match[str]) -> str:
    """A link of the README, from anywhere."""
    picture, text, target = link.groups()
    kind = "raw" if picture else "blob"
    return f"{picture}[{text}]({REPOSITORY}/{kind}/main/{target})"


readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"(!?)\[([^\]]*)\]\((?!https?:)([^)]+)\)", absolute, readme),
    long_description_content_type="text/markdown",
)

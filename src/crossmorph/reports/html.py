"""Templates and scripts of the pages."""

import base64
import hashlib
from collections.abc import Sequence

import jinja2


def templates() -> jinja2.Environment:
    """The templates of all pages; whatever is put into them is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("crossmorph.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_of(environment: jinja2.Environment, names: Sequence[str]) -> dict[str, str]:
    """A page's own ``script`` and the ``script_hash`` by which browsers know it: no other runs.

    Args:
        environment: that of :func:`templates`.
        names: its parts.
    """
    text = "\n".join(environment.get_template(name).render() for name in names)
    text = f'"use strict";\n{{\n{text}\n}}\n'  # a block, so that its names are its own
    digest = hashlib.sha256(text.encode()).digest()
    return {"script": text, "script_hash": base64.b64encode(digest).decode()}

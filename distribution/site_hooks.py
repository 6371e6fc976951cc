"""What MkDocs does beside the pages of docs/: pictures and links that lie outside, and the public names of Python."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import crossmorph

PUBLIC_NAMES = "<!-- public names -->"
ITEM = re.compile(r"\d+\. |- ")
CODE = re.compile(r"`[^`]+`")
OUTSIDE = re.compile(r"\]\((?:\.\./)+((?!\.)[^)]+)\)")  # from docs/ or a folder of it


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages without a place of their own come last among the how-to pages."""
    listed = str(config.nav)
    (guides,) = (entry["How to"] for entry in config.nav or [] if "How to" in entry)
    guides += [path.name for path in sorted(Path(config.docs_dir).glob("*.md")) if f"'{path.name}'" not in listed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pictures of results/ lie beside the pages."""
    root = config.config_file_path.removesuffix("mkdocs.yml")
    for page in [file for file in files if file.is_documentation_page() and file.src_uri.endswith(".md")]:
        for target in OUTSIDE.findall(page.content_string):
            if target.startswith("results/") and target.endswith(".png") and target not in files.src_uris:
                files.append(File.generated(config, target, abs_src_path=f"{root}{target}"))
    return files


def as_python_markdown(markdown: str) -> str:
    """What GitHub reads and Python-Markdown does not: parts of a list item set in by less than four, bars in code."""
    lines, more = [], 0
    for line in markdown.splitlines():
        if item := ITEM.match(line):
            more = 4 - len(item[0])
        elif line and not line.startswith(" "):
            more = 0
        if line.startswith("|"):
            line = CODE.sub(lambda found: found[0].replace(r"\|", "|"), line)
        lines.append(" " * more + line if line.startswith(" ") else line)
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links that lead out of docs/ lead to those pictures, or else to the repository."""
    # Columns that would be empty: the first page stands alone in its section, and short ones have no headings.
    headings = "\n## " in markdown or PUBLIC_NAMES in markdown
    page.meta["hide"] = ["navigation"] if page.is_homepage else [] if headings else ["toc"]
    markdown = as_python_markdown(markdown)
    depth = page.file.src_uri.count("/")

    def inside(found: re.Match[str]) -> str:
        if found[0].count("../") <= depth:
            return found[0]
        if found[1].startswith("results/") and found[1].endswith(".png"):
            return f"]({'../' * depth}{found[1]})"
        return f"]({config.repo_url}/blob/main/{found[1]})"

    markdown = OUTSIDE.sub(inside, markdown)
    # Functions first; the constants are said in the reference.
    public = sorted((not name.islower(), name, home) for name, home in crossmorph._HOMES.items() if not name.isupper())
    return markdown.replace(PUBLIC_NAMES, "\n\n".join(f"::: crossmorph.{home}.{name}" for _, name, home in public))

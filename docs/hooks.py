"""The site is the repository: pages lie where their files do, so links are the same on both.

A link to a file that is not listed here is an error of the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    "*.md",
    "docs/*.md",
    "examples/*.py",
    "research/**/*.md",
    "research/pictures/*",
    "weights/*/README.md",
    "weights/*/*.png",
]


class Script(File):
    """A Python file that is shown as a page."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository. Addresses of pages do without `docs/`."""
    for path in sorted(path for pattern in FILES for path in ROOT.glob(pattern)):
        kind = Script if path.suffix == ".py" else File
        file = kind.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        file.dest_uri = file.dest_uri.removeprefix("docs/")
        files.append(file)
    return files


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """The Markdown of a script; None, for the file itself, of other pages."""
    if not isinstance(page.file, Script):
        return None
    return f"# `{page.file.src_uri}`\n\n```python\n{page.file.content_string}```\n"

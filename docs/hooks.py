"""The README is the first page of the site: its links into docs/ are pages here, and those to other
files become text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

README = Path(__file__).resolve().parents[1] / "README.md"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    if page.file.src_uri != "index.md":
        return markdown
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\[([^\]]*)\]\((?!https?://|#|[\w-]+\.md\b)[^)]*\)", r"\1", text)

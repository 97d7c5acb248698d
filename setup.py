"""What setup.cfg cannot say: the README as a package index shows it, where links into the
repository lead nowhere.
"""

import re
from pathlib import Path

from setuptools import setup


def linked(match: re.Match) -> str:
    """A picture goes; a link to a file becomes its text and the file's name, which is in the source
    distribution.
    """
    image, text, target = match.groups()
    return "" if image else text if text == target else f"{text} ({target})"


readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
# There is no public repository yet that these could point to; links to other places and within the
# page stay.
setup(long_description=re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]*)\)", linked, readme))

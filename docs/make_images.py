"""Writes the table of images in docs/guides/models.md from runtimes/images.toml; ``--check`` only compares.

python docs/make_images.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from understudy.runtimes.images import OWN_REGISTRY, Image, read_registry

PAGE = Path(__file__).parent / "guides" / "models.md"
BEGIN, END = "<!-- images: written by docs/make_images.py -->\n", "<!-- images end -->\n"


def table() -> str:
    """Render one row per entry."""
    rows = ["| short name | loader | stands in for | installs the first of |\n", "|---|---|---|---|\n"]
    rows += [
        f"| `{image.name}` | {image.loader} | {_matches(image)} | {_packages(image)} |\n"
        for image in read_registry(OWN_REGISTRY)
    ]
    return "".join(rows)


def _matches(image: Image) -> str:
    return ", ".join(f"`{pattern}`" for pattern in image.match)


def _packages(image: Image) -> str:
    firsts = [candidate[0] for candidate in image.packages if candidate]
    if not firsts:
        return f"nothing (Python {image.python})" if image.python else "nothing"
    return ", ".join(f"`{first}`" for first in dict.fromkeys(firsts))


def renewed(text: str) -> str:
    """Return the page with today's table."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE}: the marks of the table are missing")
    return pattern.sub(lambda _: BEGIN + table() + END, text)


def main() -> int:
    """Write the table, or say that it is stale."""
    text = PAGE.read_text(encoding="utf-8")
    new = renewed(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.stderr.write("docs/guides/models.md is stale: run python docs/make_images.py\n")
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

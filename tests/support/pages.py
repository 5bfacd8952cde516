"""Pages of documentation as programs."""

from __future__ import annotations

import re
from pathlib import Path

_FENCE = re.compile(r"^(`{3,}|~{3,})(.*?)\s*$")


def program(page: Path) -> str:
    """Return the Python blocks of a page as one program whose line numbers are the page's."""
    lines: list[str] = []
    fence, language = "", ""
    for line in page.read_text(encoding="utf-8").splitlines():
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, language = mark.groups()
        elif mark and mark[1] == fence and not mark[2]:
            fence, language = "", ""
        elif language == "python":
            lines.append(line)
            continue
        lines.append("")
    return "\n".join(lines)

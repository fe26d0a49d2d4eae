"""Lists of differences: show the first lines, write all lines to a file."""

import os
import tempfile
from collections.abc import Sequence

SHOWN = 20


def listed(lines: Sequence[str], *, indent: str = "  ") -> str:
    """Join the lines. If there are more than 20, show the first 20 and the path of a new text file with all lines.

    The file is in the system's folder for temporary files. If it cannot be written, the text says so.

    >>> print(listed(["fc.bias: missing", "fc.kernel: missing"]))
      fc.bias: missing
      fc.kernel: missing
    """
    shown = [f"{indent}{line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"{indent}... and {len(lines) - SHOWN} more; {_written(lines)}")
    return "\n".join(shown)


def _written(lines: Sequence[str]) -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="jaxiqa_differences_", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        return f"the whole list cannot be written ({error})"
    return f"all {len(lines)} are listed in {path}"

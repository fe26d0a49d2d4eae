"""A long list of differences: its beginning for the screen, the whole of it in a file."""

import os
import tempfile
from collections.abc import Sequence

SHOWN = 20


def listed(lines: Sequence[str], *, indent: str = "  ") -> str:
    """The lines, or the first twenty of more and the name of a new text file that holds all of them.

    The file lies in the system's folder for temporary files; where it cannot be written, that is said.

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

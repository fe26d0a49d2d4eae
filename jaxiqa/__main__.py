"""The commands of this package.

    python -m jaxiqa score MODEL --weights W PICTURE-OR-FOLDER ... [--csv OUT.csv]

Each has its own --help. Beside them: python -m jaxiqa.pretrained.key_map, python -m jaxiqa.cli.prepare.
"""

import sys


def main() -> None:
    """Hand over to the command that the first word names."""
    match sys.argv[1:]:
        case ["score", *rest]:
            from jaxiqa.cli.score import main

            raise SystemExit(main(rest))
        case [] | ["-h" | "--help", *_]:
            print(__doc__.strip())
        case [other, *_]:
            raise SystemExit(f"error: there is no command {other!r}; the command is score")


if __name__ == "__main__":
    main()

"""Image-quality metrics: score, train, harden, attack and defend them.

    jaxiqa COMMAND ...        (or: python -m jaxiqa COMMAND ...)

list          show metrics, attacks, defenses, data sets, configs and weights
score         score image files with a published or a trained metric
train         train the metrics of an experiment
evaluate      attack and defend the trained metrics of an experiment
convert       write published weights as one .safetensors file
prepare       write a data set as array_record files
train-filter  train a small purifier
export        write a metric as one file of StableHLO
push          upload a trained metric to the Hugging Face hub

Options of a command: jaxiqa COMMAND --help. Versions of jaxiqa and of what it uses: jaxiqa --version.
"""

import sys
from importlib import import_module

from jaxiqa.core.interrupts import quiet

COMMANDS = ("list", "score", "train", "evaluate", "convert", "prepare", "train-filter", "export", "push")
"""Each is ``main(arguments, program)`` of a module in `jaxiqa.cli`."""


def main() -> None:
    """Run the command given by the first argument."""
    quiet()
    match sys.argv[1:]:
        case [command, *rest] if command in COMMANDS:
            program = import_module(f"jaxiqa.cli.{command.replace('-', '_')}")
            raise SystemExit(program.main(rest, program=f"jaxiqa {command}"))
        case [] | ["-h" | "--help", *_]:
            print(__doc__.strip())
        case ["--version", *_]:
            from jaxiqa.core.version import package_versions, source_commit

            commit = source_commit()
            print(package_versions() + (f", commit {commit}" if commit else ""))
        case [other, *_]:
            from jaxiqa.config.suggest import suggestion

            raise SystemExit(f"error: there is no command {other!r}{suggestion(other, COMMANDS)}")


if __name__ == "__main__":
    main()

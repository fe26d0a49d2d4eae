"""Attack and defend the trained metrics of an experiment: the same as `python -m jaxiqa evaluate`."""

from jaxiqa.cli.evaluate import main

if __name__ == "__main__":
    main()

"""Attack and defend the trained metrics of an experiment: the same as `python -m jaxiqa evaluate`."""

from jaxiqa.core.interrupts import quiet

if __name__ == "__main__":
    quiet()  # before the import below, into which Ctrl-C may fall
    from jaxiqa.cli.evaluate import main

    main()

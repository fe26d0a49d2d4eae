"""Train the metrics of an experiment: the same as `python -m jaxiqa train`."""

from jaxiqa.core.interrupts import quiet

if __name__ == "__main__":
    quiet()  # before the import below, into which Ctrl-C may fall
    from jaxiqa.cli.train import main

    main()

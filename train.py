"""Train the metrics of an experiment: the same as `python -m jaxiqa train`."""

from jaxiqa.cli.train import main

if __name__ == "__main__":
    main()

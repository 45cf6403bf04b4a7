"""Run the command line: `python -m pnp`."""

from .cli import main

if __name__ == "__main__":
    main()

"""Run the command line: `python -m pnp.cli`."""

from .app import main

if __name__ == "__main__":
    main()

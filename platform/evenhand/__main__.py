"""`python -m evenhand`: the command line without an installed script."""

from evenhand.cli import main

if __name__ == "__main__":
    main()

"""`python -m lwgraph` is the command line, too."""

from lwgraph.cli import main

if __name__ == "__main__":
    main()

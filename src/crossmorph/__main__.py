"""``python -m crossmorph``."""

from crossmorph.cli.main import main

if __name__ == "__main__":
    main()

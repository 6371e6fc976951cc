"""``python -m crossmorph``."""

from crossmorph.cli import main

if __name__ == "__main__":
    main()

"""``python -m dmaxlit``."""

from dmaxlit.cli import main

if __name__ == "__main__":
    main()

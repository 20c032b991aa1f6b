"""`python -m specdb` is the command line."""

from specdb.cli import main

if __name__ == "__main__":
    main()

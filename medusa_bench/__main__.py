"""`python -m medusa_bench`: the command line, also from an uninstalled checkout."""

from medusa_bench.cli import main

if __name__ == "__main__":
    main()

"""``python -m weitiao``: the same as the command ``weitiao``."""

from weitiao.cli import main

if __name__ == "__main__":
    main()

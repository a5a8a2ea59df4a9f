"""`python -m smartvpn.cli`."""

from smartvpn.cli import main

if __name__ == "__main__":
    main()

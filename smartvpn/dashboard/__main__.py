"""`python -m smartvpn.dashboard`."""

import sys

from smartvpn.dashboard import main

sys.exit(main())

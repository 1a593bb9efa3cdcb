"""`headjax.main` with the toy system in the place where systems are looked up."""

import sys

import headjax.main
from tests.toy import system

if __name__ == "__main__":
    sys.modules["headjax.systems.toy"] = system
    sys.exit(headjax.main.main())

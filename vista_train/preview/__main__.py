"""`python -m vista_train.preview recipe.yaml`: the same as `vista-train preview recipe.yaml`."""

import sys

from vista_train.preview import main

if __name__ == "__main__":
    sys.exit(main())

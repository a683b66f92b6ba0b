# Sourced by the other scripts, in the repository's root: installs what is missing and puts its python first on PATH.
# VISTA_TRAIN_SKIP_INSTALL=1 takes the python on PATH and installs nothing.
if [ "${VISTA_TRAIN_SKIP_INSTALL:-0}" != 1 ]; then
    bash scripts/install.sh
    bin=$(cd "${VISTA_TRAIN_VENV:-.venv}/bin" && pwd)
    export PATH="$bin:$PATH"
fi

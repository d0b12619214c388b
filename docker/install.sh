#!/bin/sh
# Install the wheel of a folder with its extras into the Python of PATH.
# Usage: install.sh FOLDER EXTRAS
set -eu
pip install --no-cache-dir --disable-pip-version-check "$(find "$1" -name '*.whl')[$2]"

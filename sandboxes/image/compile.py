"""Compile the files that a list names to unchecked hash-based .pyc files.

Usage: compile.py ROOTFS LIST. The paths recorded are those inside the image.
"""

import py_compile
import sys

rootfs, names = sys.argv[1:]
for name in open(names, encoding="utf-8").read().splitlines():
    try:
        py_compile.compile(
            f"{rootfs}/{name}",
            dfile=f"/{name}",
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except (py_compile.PyCompileError, SyntaxError, UnicodeDecodeError, ValueError):
        # Some packages ship templates and Python 2 files named .py. They are
        # never imported, and pip passes over them in the same way.
        pass

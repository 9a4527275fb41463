"""Write matplotlib's font list to a directory, with its own fonts only.

Usage: fontcache.py DIRECTORY SCRATCH.
"""

import json
import os
import pathlib
import sys

target, scratch = sys.argv[1:]
os.environ["MPLCONFIGDIR"] = scratch
os.environ["PATH"] = ""  # no fc-list: the fonts of this host are not the image's

import matplotlib.font_manager  # noqa: E402  (writes the list when imported)

for made in pathlib.Path(scratch).glob("fontlist-*.json"):
    fonts = json.loads(made.read_text())
    for key in ("afmlist", "ttflist"):
        # Fonts of matplotlib have paths relative to its data directory.
        own = [f for f in fonts[key] if not os.path.isabs(f["fname"])]
        # In a directory's order, which differs from one file system to another.
        fonts[key] = sorted(own, key=lambda f: json.dumps(f, sort_keys=True))
        if not fonts[key]:
            sys.exit(f"{made} has no {key} of matplotlib's own")
    os.makedirs(target, exist_ok=True)
    pathlib.Path(target, made.name).write_text(json.dumps(fonts, indent=1, sort_keys=True))

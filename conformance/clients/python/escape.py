"""Runs a notebook through a gateway by nbclient: escape.py FILE.

Prints the text of all its cells, then one line of JSON: {"attempts": the last
line of the last cell, "error": what it raised or null}.
"""

import json
import sys

sys.path.pop(0)  # the directory of this file: notebook.py there is not the package that jupyter_server looks for

import nbformat
from nbclient import NotebookClient
from traitlets.utils.importstring import import_item


def main():
    nb = nbformat.read(sys.argv[1], as_version=4)
    manager = import_item("jupyter_server.gateway.managers.GatewayKernelManager")
    NotebookClient(nb, timeout=300, iopub_timeout=60, allow_errors=True, kernel_manager_class=manager).execute()
    error, last = None, ""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                print("#", output.text.replace("\n", "\n# "))
                last = output.text.strip().splitlines()[-1]
            elif output.output_type == "error" and error is None:
                error = f"{output.ename}: {output.evalue}"
    print(json.dumps({"attempts": last, "error": error}))


main()

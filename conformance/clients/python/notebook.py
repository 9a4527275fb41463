"""Runs one notebook through a gateway: notebook.py nbclient|papermill.

The gateway is the one that JUPYTER_GATEWAY_URL names, as for every program
that uses jupyter_server's GatewayKernelManager. Prints one line of JSON.
"""

import json
import sys
import tempfile

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

# nbclient waits iopub_timeout (4 s) for the rest of a cell's output after its
# reply, and its WebSocket library checks 12 MB of UTF-8 in Python for longer
# than that on a busy machine.
OPTIONS = {"iopub_timeout": 60}

MANAGER = "jupyter_server.gateway.managers.GatewayKernelManager"

SOURCES = [
    "for i in range(20):\n    print(i)",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()",
    "1 / 0",
    "import time\ntime.sleep(45)\nprint('awake')",
    "for i in range(120):\n    print(f'{i:06}' + 'x' * 99_993)",
    "print('y' * 12_000_000)",
]


def notebook():
    cells = [new_code_cell(source) for source in SOURCES]
    cells[2].metadata["tags"] = ["raises-exception"]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernelspec, "language_info": {"name": "python"}})


def with_nbclient():
    from nbclient import NotebookClient
    from traitlets.utils.importstring import import_item

    nb = notebook()
    NotebookClient(nb, timeout=120, kernel_manager_class=import_item(MANAGER), **OPTIONS).execute()
    return nb


def with_papermill():
    import papermill
    from traitlets.utils.importstring import import_item

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(notebook(), f"{folder}/in.ipynb")
        try:
            papermill.execute_notebook(
                f"{folder}/in.ipynb",
                f"{folder}/out.ipynb",
                execution_timeout=120,
                progress_bar=False,
                kernel_manager_class=import_item(MANAGER),
                **OPTIONS,
            )
        except papermill.PapermillExecutionError as error:
            # It runs to the end and then reports the cell that may raise.
            assert error.ename == "ZeroDivisionError", error
        return nbformat.read(f"{folder}/out.ipynb", as_version=4)


def main():
    nb = {"nbclient": with_nbclient, "papermill": with_papermill}[sys.argv[1]]()
    cells = [cell for cell in nb.cells if cell.source in SOURCES]

    def text(cell):
        return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")

    images = [o.data["image/png"] for o in cells[1].outputs if "image/png" in o.get("data", {})]
    lines = text(cells[4]).splitlines()
    print(
        json.dumps(
            {
                "cells": len(cells),
                "prints": text(cells[0]),
                "png": bool(images) and images[0].startswith("iVBORw0KGgo"),
                "error": [o.ename for o in cells[2].outputs if o.output_type == "error"],
                "silent": text(cells[3]),
                "megabytes_in_order": [line[:6] for line in lines] == [f"{i:06}" for i in range(120)],
                "bytes_of_prints": len(text(cells[4])),
                "bytes_of_one_print": len(text(cells[5])),
            }
        )
    )


main()

"""Runs a printing cell with nbclient: breaks.py MANAGER LINES.

MANAGER is the name of a kernel manager's class, LINES how many numbers the cell
prints. JUPYTER_GATEWAY_URL names the gateway. Prints one JSON object a line:
{"event": "lines", "n": how many there are} as they come, then {"event": "done",
"text": the whole output}, or {"event": "gave up", "error": why, "after": seconds
since the last output}.
"""

import json
import sys
import time

from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.utils.importstring import import_item

CELL = "import time\nfor i in range({}):\n    print(i, flush=True)\n    time.sleep(0.005)"


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


class Telling(NotebookClient):
    """A NotebookClient that says how far it is."""

    lines = 0
    last = 0.0

    def output(self, outs, msg, display_id, cell_index):
        added = msg["content"].get("text", "").count("\n")
        self.lines += added
        self.last = time.monotonic()
        if self.lines % 50 < added:
            say("lines", n=self.lines)
        return super().output(outs, msg, display_id, cell_index)


def main():
    manager, lines = sys.argv[1:]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = new_code_cell(CELL.format(lines))
    notebook = new_notebook(cells=[cell], metadata={"kernelspec": kernelspec})
    client = Telling(notebook, timeout=300, iopub_timeout=60, kernel_manager_class=import_item(manager))
    try:
        client.execute()
    except Exception as error:  # whatever it is, it is what the user sees
        say("gave up", error=repr(error), after=time.monotonic() - client.last)
        return
    say("done", text="".join(output.text for output in notebook.cells[0].outputs))


main()

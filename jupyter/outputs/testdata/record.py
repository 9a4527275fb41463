"""Record what ipykernel sends for some cells, and what nbformat makes of it.

python record.py > ipykernel.json, with a Python that has both.
"""

import json
import sys

import nbformat.v4
from jupyter_client.manager import start_new_kernel

CELLS = [
    "print('a'); print('b')\nimport sys; print('c', file=sys.stderr)",
    "1 + 1",
    "1 / 0",
    "print?",
    "from IPython.display import HTML, display\ndisplay(HTML('<b>b</b>'), metadata={'a': 1})",
    "from IPython.display import clear_output\nprint('old'); clear_output(wait=True); print('new')",
    "h = display('one', display_id='x'); h.update('two'); print('end')",
    "import sys\nfor i in range(3): print(f'\\r{i}', end=''); sys.stdout.flush()",
    "import base64\nfrom IPython.display import Image, display\n"
    "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))",
]


def output(message):
    try:
        return nbformat.v4.output_from_msg(message)
    except ValueError:
        return None


def run(client, code):
    id = client.execute(code)
    messages = []
    while True:
        m = client.get_iopub_msg(timeout=30)
        if m["parent_header"].get("msg_id") != id:
            continue
        if m["msg_type"] == "status" and m["content"]["execution_state"] == "idle":
            break
        messages.append(("iopub", m))
    messages.append(("shell", client.get_shell_msg(timeout=30)))
    return {
        "code": code,
        "messages": [{"channel": c, "msgtype": m["msg_type"], "content": m["content"]} for c, m in messages],
        "nbformat": [output(m) for _, m in messages],
    }


manager, client = start_new_kernel(kernel_name="python3")
try:
    json.dump([run(client, code) for code in CELLS], sys.stdout, indent=1)
    print()
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)

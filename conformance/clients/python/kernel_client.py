"""Uses jupyter_kernel_client: kernel_client.py legacy|v1.

KERNELGW_URL and KERNELGW_TOKEN name the server. Prints one line of JSON.
"""

import json
import os
import sys
import threading
import time

from jupyter_kernel_client import JupyterKernelClient, JupyterSubprotocol
from jupyter_kernel_client.wsclient import WSSession

if sys.argv[1] == "v1":
    # Version 1.0.2 drops every v1 message, of any server: a line that logs it
    # looks for a key that only legacy messages have. Give it that key.
    deserialize = WSSession.deserialize
    WSSession.deserialize = lambda *args, **kwargs: {**deserialize(*args, **kwargs), "channel": ""}

subprotocol = {"legacy": JupyterSubprotocol.DEFAULT, "v1": JupyterSubprotocol.V1}[sys.argv[1]]

with JupyterKernelClient(
    server_url=os.environ["KERNELGW_URL"].rstrip("/"),
    token=os.environ["KERNELGW_TOKEN"],
    client_kwargs={"subprotocol": subprotocol},
) as kernel:
    started = kernel.id
    info = kernel.kernel_info["language_info"]["name"]
    first = kernel.execute("print('hello')\n6 * 7", timeout=60)
    error = kernel.execute("1 / 0", timeout=60)
    kernel.execute("numbers = [1, 2, 3]", timeout=60)
    asked = kernel.execute(
        "print('got ' + input('name? '))",
        allow_stdin=True,
        stdin_hook=lambda message: kernel._manager.client.input("ada"),
        timeout=60,
    )

    def interrupt():
        time.sleep(2)
        kernel.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    interrupted = kernel.execute("import time\ntime.sleep(50)", timeout=60)
    thread.join()
    kernel.restart()
    restarted = kernel.execute("print('numbers' in globals())", timeout=60)
    alive = kernel.is_alive()

print(
    json.dumps(
        {
            "kernel": started,
            "language": info,
            "status": first["status"],
            "outputs": [o.get("text") or o["data"]["text/plain"] for o in first["outputs"]],
            "error": error["outputs"][0]["ename"],
            "asked": "".join(o.get("text", "") for o in asked["outputs"]),
            "interrupted": interrupted["outputs"][0]["ename"],
            "restarted": "".join(o.get("text", "") for o in restarted["outputs"]),
            "alive": alive,
        }
    )
)

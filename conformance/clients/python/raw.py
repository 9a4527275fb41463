"""Speaks to a kernel as code interpreters do that were written against the
JSON alone: no channel, no session_id, no date, and the end of a cell is the
idle after execute_input.

KERNELGW_URL and KERNELGW_TOKEN name the server. Prints one line of JSON.
"""

import asyncio
import json
import os
import uuid

import aiohttp

BASE = os.environ["KERNELGW_URL"].rstrip("/")
HEADERS = {"Authorization": "token " + os.environ["KERNELGW_TOKEN"]}


async def run(ws, code):
    msg_id = str(uuid.uuid4())
    await ws.send_json(
        {
            "header": {"msg_id": msg_id, "username": "raw", "session": "", "msg_type": "execute_request", "version": "5.3"},
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False},
        }
    )
    result = {"stdout": "", "data": [], "error": None, "reply": None}
    begun = idle = False
    while not (idle and result["reply"]):
        message = await ws.receive_json(timeout=60)
        if message["parent_header"].get("msg_id") != msg_id:
            continue
        kind, content = message["msg_type"], message["content"]
        assert message["msg_id"] == message["header"]["msg_id"]
        if kind == "execute_input":
            begun = True
        elif kind == "stream":
            result["stdout"] += content["text"]
        elif kind in ("execute_result", "display_data"):
            result["data"].append(sorted(content["data"]))
        elif kind == "error":
            result["error"] = content["ename"]
        elif kind == "execute_reply":
            result["reply"] = content["status"]
        elif kind == "status" and content["execution_state"] == "idle":
            idle = begun
    return result


async def main():
    async with aiohttp.ClientSession(headers=HEADERS) as http:
        body = {"path": str(uuid.uuid4()), "kernel": {"name": "python3"}, "type": "notebook", "name": str(uuid.uuid4())}
        async with http.post(BASE + "/api/sessions", json=body) as response:
            assert response.status == 201, await response.text()
            session = await response.json()
        url = f"{BASE}/api/kernels/{session['kernel']['id']}/channels"
        async with http.ws_connect(url, max_msg_size=0) as ws:
            results = [
                await run(ws, "print('hello'); 6 * 7"),
                await run(ws, "1 / 0"),
                await run(ws, "%matplotlib inline\nimport matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()"),
                await run(ws, "print(len('" + "x" * 11_000_000 + "'))"),
            ]
        async with http.delete(f"{BASE}/api/sessions/{session['id']}") as response:
            results.append(response.status)
    print(json.dumps(results))


asyncio.run(main())

"""Follow what a session's kernel says, each message once, to the end.

    TOKEN=... python follow.py URL SESSION

prints its output. URL is the server's, or .../w/NAME of a workspace; SESSION is
the id of a session or of a kernel. A connection that breaks, and a server that
is killed and comes back, cost nothing but time. Needs only the standard library.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

SILENCE = 45  # seconds; the server says something every 15
COME_BACK = (429, 502, 503, 504)  # the server, or a proxy before it, is busy or restarts


def follow(url, token, session, last_event_id="0", channels="iopub"):
    """Yield each event behind last_event_id; "0" is the first that there is.

    Who keeps event["id"] with what it made of the event can go on there later.
    """
    pause = 1
    while True:
        request = urllib.request.Request(
            f"{url.rstrip('/')}/v1/sessions/{session}/stream?channels={channels}",
            headers={"Authorization": f"token {token}", "Last-Event-ID": last_event_id},
        )
        try:
            with urllib.request.urlopen(request, timeout=SILENCE) as stream:
                for field, value in events(stream):
                    if field == "retry":
                        pause = int(value) / 1000
                    elif field == "id":
                        last_event_id = value
                    elif field == "end":
                        return
                    else:
                        yield json.loads(value)
        except urllib.error.HTTPError as error:
            if error.code not in COME_BACK:
                raise  # 404: there is no such session any more; 410: its kernel is another
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(pause)


def events(stream):
    """Yield the id, the retry, and what is in each server-sent event, once it is whole."""
    name, data, told = "data", [], []
    for line in stream:
        field, _, value = line.decode().rstrip("\n").partition(":")
        value = value.removeprefix(" ")
        if field in ("id", "retry"):
            told.append((field, value))
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif line == b"\n":
            yield from told
            if data:
                yield name, "\n".join(data)
            name, data, told = "data", [], []


def main():
    for event in follow(sys.argv[1], os.environ["TOKEN"], sys.argv[2]):
        if "lost" in event:
            print("lost: {messages} messages, {bytes} bytes".format(**event["lost"]), file=sys.stderr)
        elif "msg" in event and event["msg"]["header"]["msg_type"] == "stream":
            content = event["msg"]["content"]
            print(content["text"], end="", flush=True, file=sys.stderr if content["name"] == "stderr" else sys.stdout)


if __name__ == "__main__":
    main()

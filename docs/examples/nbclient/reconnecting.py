"""GatewayKernelManager, for a notebook that outlives its connection.

    from reconnecting import ReconnectingKernelManager
    nbclient.NotebookClient(nb, kernel_manager_class=ReconnectingKernelManager).execute()

jupyter_server's own opens one WebSocket for a kernel, and when that breaks the
notebook fails. This one opens it again with the same session_id: the gateway goes
on after the last message that arrived, and what comes twice is dropped here.
JUPYTER_GATEWAY_URL names the gateway, as ever. A cell that is sent into a
connection that is breaking may be lost, and then ends by nbclient's timeout.
"""

import collections
import json
import struct
import threading
import time
import uuid

import websocket
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelClient, GatewayKernelManager
from jupyter_server.utils import url_path_join
from traitlets import Type

PATIENCE = 300  # seconds without a gateway, before that is an error
SILENCE = 40  # seconds; the gateway pings every 20
KERNEL_IS_GONE = 1000  # close code; any other means: come back
TWICE = 1024  # messages that a replay may begin with, at the most


class Socket:
    """What the client uses of a WebSocket, over as many connections as it takes."""

    def __init__(self, url, **options):
        self.url = f"{url}?session_id={uuid.uuid4()}"
        self.options = {"timeout": SILENCE, "enable_multithread": True, **options}
        self.closed = threading.Event()
        self.changed = threading.Condition()
        self.connection = self.connect()
        self.seen = collections.OrderedDict()

    def connect(self):
        late = time.monotonic() + PATIENCE
        while True:
            try:
                return websocket.create_connection(self.url, **self.options)
            except (websocket.WebSocketException, OSError) as error:
                unknown = getattr(error, "status_code", 0) in (403, 404)
                if unknown or time.monotonic() > late or self.closed.wait(1):
                    raise

    def recv(self):
        """Return the next message, or "" when there will be none."""
        while not self.closed.is_set():
            try:
                opcode, data = self.connection.recv_data()
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    if self.is_new(message := json.loads(data)):
                        if is_dead(message):
                            return ""
                        return data
                elif data[:2] == struct.pack("!H", KERNEL_IS_GONE):
                    return ""
                else:
                    self.reconnect()
            except (websocket.WebSocketException, OSError):
                self.reconnect()
        return ""

    def is_new(self, message):
        name = message["channel"], message["header"]["msg_id"]
        if name in self.seen:
            return False
        self.seen[name] = None
        if len(self.seen) > TWICE:
            self.seen.popitem(last=False)
        return True

    def reconnect(self):
        if not self.closed.is_set():
            self.connection.shutdown()
            connection = self.connect()
            with self.changed:
                self.connection = connection
                self.changed.notify_all()

    def send(self, message):
        while True:
            connection = self.connection
            try:
                return connection.send(message)
            except (websocket.WebSocketException, OSError):
                with self.changed:
                    if not self.changed.wait_for(lambda: self.connection is not connection, PATIENCE):
                        raise

    def close(self):
        self.closed.set()
        self.connection.close()


def is_dead(message):
    """Tell that what runs will not end: the kernel died, and may have a successor."""
    return message["header"]["msg_type"] == "status" and message["content"]["execution_state"] in ("restarting", "dead")


class ReconnectingKernelClient(GatewayKernelClient):
    async def start_channels(self, **channels):
        gateway = GatewayClient.instance()
        url = url_path_join(gateway.ws_url, gateway.kernels_endpoint, self.kernel_id, "channels")
        tls = {"ca_certs": gateway.ca_certs, "certfile": gateway.client_cert, "keyfile": gateway.client_key}
        self.channel_socket = Socket(url, sslopt=tls)
        AsyncKernelClient.start_channels(self, **channels)
        self.response_router = threading.Thread(target=self._route_responses)
        self.response_router.start()


class ReconnectingKernelManager(GatewayKernelManager):
    client_factory = Type(ReconnectingKernelClient)

// Runs a printing cell as the VS Code extension and JupyterLab do, through whatever
// breaks meanwhile: breaks.cjs LINES. KERNELGW_URL and KERNELGW_TOKEN name the
// server; NODE_PATH finds @jupyterlab/services.
//
// Prints one JSON object a line: {"event": "lines", "n": how many there are} as they
// come, then {"event": "done", "stream": [[msg_id, text], ...], "reply": status}.
'use strict';
const { randomUUID } = require('node:crypto');
const { KernelManager, SessionManager, ServerConnection } = require('@jupyterlab/services');

const baseUrl = process.env.KERNELGW_URL;
const serverSettings = ServerConnection.makeSettings({
  baseUrl, wsUrl: baseUrl.replace(/^http/, 'ws'), token: process.env.KERNELGW_TOKEN, appendToken: true
});
const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

async function main(lines) {
  const kernelManager = new KernelManager({ serverSettings });
  const sessions = new SessionManager({ serverSettings, kernelManager });
  await sessions.ready;
  const session = await sessions.startNew({ path: randomUUID(), type: 'notebook', name: 'a.ipynb', kernel: { name: 'python3' } });
  const stream = [];
  const seen = new Set();
  const future = session.kernel.requestExecute({ code: `import time\nfor i in range(${lines}):\n    print(i, flush=True)\n    time.sleep(0.005)` });
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type !== 'stream') return;
    stream.push([header.msg_id, content.text]);
    seen.add(header.msg_id);
    if (seen.size % 50 === 0) say('lines', { n: seen.size });
  };
  const reply = await future.done;
  say('done', { stream, reply: reply.content.status });
  const again = await session.kernel.requestExecute({ code: '1' }).done;
  if (again.content.status !== 'ok') throw new Error('the kernel no longer answers');
  await session.shutdown();
  sessions.dispose();
  kernelManager.dispose();
}

setTimeout(() => { say('failed', { error: 'it is not done after five minutes' }); process.exit(1); }, 300_000);
main(Number(process.argv[2])).then(() => process.exit(0), error => { say('failed', { error: String(error.stack || error) }); process.exit(1); });

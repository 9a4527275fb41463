// Uses @jupyterlab/services, which JupyterLab and the VS Code extension are
// built on, through everything that they do with a kernel. KERNELGW_URL and
// KERNELGW_TOKEN name the server; NODE_PATH finds the package.
//
// Prints one JSON object a line: {"event": ...}. After "printing" the server is
// expected to be killed and started again.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { KernelManager, SessionManager, SessionAPI, KernelAPI, KernelSpecManager, ServerConnection } = require('@jupyterlab/services');

const baseUrl = process.env.KERNELGW_URL;
const serverSettings = ServerConnection.makeSettings({
  baseUrl, wsUrl: baseUrl.replace(/^http/, 'ws'), token: process.env.KERNELGW_TOKEN, appendToken: true
});
const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

function within(seconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took over ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Resolves when the predicate holds after an emission of the signal, or now.
function until(signal, seconds, what, predicate) {
  if (predicate()) return Promise.resolve();
  let slot;
  const seen = new Promise(resolve => {
    slot = () => { if (predicate()) resolve(); };
    signal.connect(slot);
  });
  return within(seconds, what, seen).finally(() => signal.disconnect(slot));
}

function start(kernel, code, options = {}) {
  const future = kernel.requestExecute({ code, ...options });
  const cell = { future, stdout: '', messages: [] };
  future.onIOPub = message => {
    cell.messages.push(message);
    if (message.header.msg_type === 'stream' && message.content.name === 'stdout') cell.stdout += message.content.text;
  };
  return cell;
}

async function run(kernel, code, options) {
  const cell = start(kernel, code, options);
  cell.reply = (await within(60, `the cell ${code.slice(0, 40)}`, cell.future.done)).content;
  return cell;
}

async function openSession(sessions) {
  // JupyterLab starts with a throw-away path, then renames twice.
  const path = 'work/' + randomUUID();
  const session = await sessions.startNew({ path, type: 'notebook', name: 'Untitled.ipynb', kernel: { name: 'python3' } });
  assert.equal(session.path, path);
  await session.setPath('work/real.ipynb');
  await session.setName('real.ipynb');
  const model = await SessionAPI.getSessionModel(session.id, serverSettings);
  assert.equal(model.path, 'work/real.ipynb');
  assert.equal(model.name, 'real.ipynb');
  say('session');
  return session;
}

async function executeAndAsk(kernel) {
  const cell = await run(kernel, 'print("hello")\n6 * 7');
  assert.equal(cell.stdout, 'hello\n');
  assert.equal(cell.reply.status, 'ok');
  assert.ok(cell.messages.some(m => m.header.msg_type === 'execute_result' && m.content.data['text/plain'] === '42'));
  const asking = start(kernel, 'print("got " + input("name? "))', { allow_stdin: true });
  asking.future.onStdin = message => {
    assert.equal(message.content.prompt, 'name? ');
    asking.future.sendInputReply({ value: 'ada', status: 'ok' }, message.header);
  };
  await within(60, 'stdin', asking.future.done);
  assert.equal(asking.stdout, 'got ada\n');
  say('stdin');
}

const ECHO = `
from comm import create_comm, get_comm_manager
def opened(comm, message):
    def back(message):
        comm.send({'n': len(message['buffers'])}, buffers=[bytes(b) for b in message['buffers']])
    comm.on_msg(back)
get_comm_manager().register_target('echo', opened)
`;

async function comms(kernel) {
  await run(kernel, ECHO);
  const comm = kernel.createComm('echo');
  const answered = new Promise(resolve => { comm.onMsg = resolve; });
  await within(30, 'comm_open', comm.open({}).done);
  comm.send({}, {}, [new Uint8Array([0, 128, 255]).buffer, new Uint8Array([7]).buffer]);
  const message = await within(30, 'the echo', answered);
  const bytes = b => Array.from(new Uint8Array(b.buffer ?? b, b.byteOffset ?? 0, b.byteLength));
  assert.deepEqual(message.buffers.map(bytes), [[0, 128, 255], [7]]);

  const openedByKernel = new Promise(resolve => {
    kernel.registerCommTarget('page', (_, message) => resolve(message));
  });
  await run(kernel, 'c = create_comm(target_name="page", data={"a": 1}, buffers=[b"\\xff\\x00"])');
  const open = await within(30, 'comm_open of the kernel', openedByKernel);
  assert.deepEqual(open.buffers.map(bytes), [[255, 0]]);
  say('comm');
}

async function interruptAndRestart(kernel) {
  const cell = start(kernel, 'import time\nprint("begun", flush=True)\ntime.sleep(60)');
  await until(kernel.iopubMessage, 30, 'the cell to begin', () => cell.stdout.includes('begun'));
  await kernel.interrupt();
  const reply = (await within(20, 'the interrupt', cell.future.done)).content;
  assert.equal(reply.ename, 'KeyboardInterrupt');
  say('interrupt');
  await run(kernel, 'marker = 1');
  for (let i = 0; i < 2; i++) {
    await within(60, 'the restart', kernel.restart());
    assert.equal((await run(kernel, 'print("marker" in globals()); marker = 1')).stdout, 'False\n');
  }
  say('restart');
}

async function death(kernel) {
  const statuses = [];
  const note = (_, status) => statuses.push(status);
  kernel.statusChanged.connect(note);
  start(kernel, 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)').future.done.catch(() => {}); // cancelled
  await until(kernel.statusChanged, 5, 'autorestarting', () => statuses.includes('autorestarting'));
  await until(kernel.statusChanged, 60, 'idle after the crash', () => kernel.status === 'idle' && kernel.connectionStatus === 'connected');
  kernel.statusChanged.disconnect(note);
  assert.equal((await run(kernel, 'print("marker" in globals())')).stdout, 'False\n');
  say('death', { statuses });
}

async function reconnect(kernel) {
  const cell = start(kernel, 'import time\nfor i in range(2000):\n    print(i, flush=True)\n    time.sleep(0.003)');
  await until(kernel.iopubMessage, 60, 'output', () => cell.stdout.split('\n').length > 200);
  say('printing');
  await within(120, 'the end of the printing cell', cell.future.done);
  // A line may come in two messages, with the break in between: a replay goes
  // back to one message and on from there.
  const place = new Map();
  let due = 0, twice = 0, text = '';
  for (const { header, content } of cell.messages.filter(m => m.header.msg_type === 'stream')) {
    const at = place.get(header.msg_id);
    if (at === undefined) {
      if (due < place.size) throw new Error(`new output inside a replay, where message ${due} was due`);
      place.set(header.msg_id, due++);
      text += content.text;
    } else {
      if (at > due) throw new Error(`message ${at} of the output where ${due} was due`);
      due = at + 1;
      twice++;
    }
  }
  assert.equal(due, place.size, 'a replay ends too early');
  assert.deepEqual(text.trimEnd().split('\n').map(Number), [...Array(2000).keys()]);
  assert.equal((await run(kernel, 'print("still here")')).stdout, 'still here\n');
  say('reconnect', { messages: place.size, twice });
}

async function main() {
  const specs = new KernelSpecManager({ serverSettings });
  await within(30, 'kernelspecs', specs.ready);
  assert.ok(specs.specs.kernelspecs.python3);
  const kernels = new KernelManager({ serverSettings });
  const sessions = new SessionManager({ serverSettings, kernelManager: kernels });
  await within(30, 'the session manager', sessions.ready);
  const session = await openSession(sessions);
  const kernel = session.kernel;
  await within(60, 'kernel_info', kernel.info);
  await executeAndAsk(kernel);
  await comms(kernel);
  await interruptAndRestart(kernel);
  await death(kernel);
  await reconnect(kernel);
  const id = kernel.id;
  await session.shutdown();
  assert.ok(!(await KernelAPI.listRunning(serverSettings)).some(k => k.id === id));
  say('done');
  sessions.dispose();
  kernels.dispose();
  specs.dispose();
}

main().then(() => process.exit(0), error => { say('failed', { error: String(error.stack || error) }); process.exit(1); });

// Uses the managers of @jupyterlab/services for files, settings, layouts,
// terminals and events, through everything that JupyterLab does with them.
// KERNELGW_URL and KERNELGW_TOKEN name the server; NODE_PATH finds the package.
//
// Prints one JSON object a line: {"event": ...}.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const {
  ContentsManager, EventManager, ServerConnection, SettingManager, TerminalManager, WorkspaceManager
} = require('@jupyterlab/services');
const { PageConfig } = require('@jupyterlab/coreutils');

// A page is told by its server; there is no page here.
PageConfig.setOption('terminalsAvailable', 'true');
const baseUrl = process.env.KERNELGW_URL;
const serverSettings = ServerConnection.makeSettings({
  baseUrl, appUrl: 'lab', wsUrl: baseUrl.replace(/^http/, 'ws'), token: process.env.KERNELGW_TOKEN, appendToken: true
});
const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

function within(seconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took over ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const answers = (status, promise) => assert.rejects(promise, error => {
  assert.equal(error.response?.status, status, String(error));
  return true;
});

async function files() {
  const contents = new ContentsManager({ serverSettings });
  const changes = [];
  contents.fileChanged.connect((_, change) => changes.push(change.type));
  const dir = await contents.newUntitled({ path: '', type: 'directory' });
  const book = await contents.newUntitled({ path: dir.path, type: 'notebook' });
  assert.equal(book.name, 'Untitled.ipynb');
  const text = await contents.newUntitled({ path: dir.path, type: 'file', ext: '.txt' });
  const note = await contents.save(text.path, { type: 'file', format: 'text', content: 'first ü\n' });
  assert.equal(note.size, 9);

  const listing = await contents.get(dir.path);
  assert.deepEqual(listing.content.map(m => m.name).sort(), ['Untitled.ipynb', 'untitled.txt']);
  const opened = await contents.get(book.path, { type: 'notebook', content: true, hash: true });
  assert.match(opened.hash, /^[0-9a-f]{64}$/);
  assert.equal(opened.content.nbformat, 4);
  const same = await contents.get(book.path, { content: false, hash: true });
  assert.equal(same.hash, opened.hash);

  const checkpoint = await contents.createCheckpoint(text.path);
  await contents.save(text.path, { type: 'file', format: 'text', content: 'second' });
  const renamed = await contents.rename(text.path, `${dir.path}/note é.txt`);
  assert.equal(renamed.name, 'note é.txt');
  assert.deepEqual((await contents.listCheckpoints(renamed.path)).map(c => c.id), [checkpoint.id]);
  await contents.restoreCheckpoint(renamed.path, checkpoint.id);
  assert.equal((await contents.get(renamed.path)).content, 'first ü\n');
  await contents.deleteCheckpoint(renamed.path, checkpoint.id);
  assert.deepEqual(await contents.listCheckpoints(renamed.path), []);

  const copy = await contents.copy(renamed.path, dir.path);
  assert.equal(copy.name, 'note é-Copy1.txt');
  await answers(409, contents.rename(copy.path, renamed.path));
  await answers(404, contents.get(`${dir.path}/none.txt`));
  const url = await contents.getDownloadUrl(renamed.path);
  const downloaded = await ServerConnection.makeRequest(url, {}, serverSettings);
  assert.equal(await downloaded.text(), 'first ü\n');

  // As the file browser uploads: chunks of base64, the last one is -1.
  const bytes = Buffer.alloc(2_500_000, 'kernelgw\xff\n', 'latin1');
  const size = 1024 * 1024;
  for (let start = 0, chunk = 1; start < bytes.length; start += size, chunk++) {
    const last = start + size >= bytes.length;
    await contents.save(`${dir.path}/big.bin`, {
      type: 'file', format: 'base64', name: 'big.bin', chunk: last ? -1 : chunk,
      content: bytes.subarray(start, start + size).toString('base64')
    });
  }
  const big = await contents.get(`${dir.path}/big.bin`, { type: 'file', format: 'base64', content: true });
  assert.ok(Buffer.from(big.content, 'base64').equals(bytes));

  for (const entry of (await contents.get(dir.path)).content) await contents.delete(entry.path);
  await contents.delete(dir.path);
  await answers(404, contents.get(dir.path));
  for (const type of ['new', 'save', 'rename', 'delete']) assert.ok(changes.includes(type), `no change ${type}`);
  contents.dispose();
  say('contents');
}

async function settings() {
  const manager = new SettingManager({ serverSettings });
  const all = await manager.list();
  assert.ok(all.values.length > 60 && all.ids.length === all.values.length);
  const ids = await manager.list('ids');
  assert.deepEqual([...ids.ids].sort(), [...all.ids].sort());
  const id = '@jupyterlab/apputils-extension:themes';
  const before = await manager.fetch(id);
  assert.ok(before.schema.properties.theme && before.version);
  const raw = '{\n  // dark\n  "theme": "JupyterLab Dark"\n}';
  await manager.save(id, raw);
  const after = await manager.fetch(id);
  assert.equal(after.raw, raw);
  await assert.rejects(manager.save(id, '{"theme": 7}'));
  await assert.rejects(manager.fetch('@jupyterlab/none:plugin'));
  await manager.save(id, '{}');
  say('settings', { plugins: all.ids.length });
}

async function layouts() {
  const manager = new WorkspaceManager({ serverSettings });
  const id = 'w' + randomUUID();
  const fresh = await manager.fetch(id);
  assert.deepEqual(fresh.data, {});
  await manager.save(id, { data: { 'file-browser:cwd': { path: 'ü' } }, metadata: { id } });
  assert.deepEqual((await manager.fetch(id)).data, { 'file-browser:cwd': { path: 'ü' } });
  const list = await manager.list();
  assert.ok(list.ids.includes(id) && list.values.some(w => w.metadata.id === id));
  await manager.remove(id);
  assert.ok(!(await manager.list()).ids.includes(id));
  say('workspaces');
}

// Collects what a terminal prints, and resolves when it holds a text.
function shows(terminal, text) {
  let all = '';
  return within(60, `the terminal to show ${text}`, new Promise(resolve => {
    terminal.messageReceived.connect(function note(_, message) {
      if (message.type === 'stdout') all += message.content.join('');
      if (all.includes(text)) {
        terminal.messageReceived.disconnect(note);
        resolve(all);
      }
    });
  }));
}

async function terminals() {
  const manager = new TerminalManager({ serverSettings });
  await within(30, 'the terminal manager', manager.ready);
  assert.ok(manager.isAvailable());
  const terminal = await manager.startNew();
  const seen = shows(terminal, 'sum 42');
  terminal.send({ type: 'set_size', content: [30, 100, 600, 900] });
  terminal.send({ type: 'stdin', content: ['echo sum $((40+2))\r'] });
  await seen;
  // Another page that opens it sees what was printed.
  const other = manager.connectTo({ model: terminal.model });
  await shows(other, 'sum 42');
  const both = Promise.all([shows(terminal, 'for 2'), shows(other, 'for 2')]);
  other.send({ type: 'stdin', content: ['echo for $((1+1))\r'] });
  await both;
  await manager.refreshRunning();
  assert.ok([...manager.running()].some(m => m.name === terminal.name));
  await terminal.shutdown();
  await manager.refreshRunning();
  assert.ok(![...manager.running()].some(m => m.name === terminal.name));
  manager.dispose();
  say('terminals');
}

async function events() {
  const manager = new EventManager({ serverSettings });
  const contents = new ContentsManager({ serverSettings });
  const name = `event-${randomUUID()}.txt`;
  let timer;
  const told = new Promise(resolve => {
    manager.stream.connect((_, event) => {
      if (event.path === name && event.action === 'save') resolve(event);
    });
    // The stream has no word for "connected": save until it is.
    timer = setInterval(() => { contents.save(name, { type: 'file', format: 'text', content: '' }).catch(() => {}); }, 200);
  });
  const event = await within(30, 'the event of a save', told).finally(() => clearInterval(timer));
  assert.equal(event.schema_id, 'https://events.jupyter.org/jupyter_server/contents_service/v1');
  await contents.delete(name);
  manager.dispose();
  say('events');
}

async function main() {
  await files();
  await settings();
  await layouts();
  await terminals();
  await events();
  say('done');
}

main().then(() => process.exit(0), error => { say('failed', { error: String(error.stack || error) }); process.exit(1); });

// Asks a server what the VS Code Jupyter extension asks when a user pastes its
// URL. KERNELGW_URL and KERNELGW_TOKEN name the server. Prints one JSON object.
'use strict';
const assert = require('node:assert/strict');

const base = process.env.KERNELGW_URL;
const token = process.env.KERNELGW_TOKEN;
const at = (path, options = {}) => fetch(base + path, { redirect: 'manual', ...options });

async function baseFromPage() {
  // A pasted page URL is asked without redirects; what stands before "login?"
  // in its Location is the base URL.
  const page = await at('tree?', {});
  const location = page.headers.get('location') ?? '';
  assert.match(location, /login\?/);
  return new URL(location.split('login?')[0], base).href;
}

async function needsPassword() {
  const hub = await at('hub/api');
  const isHub = hub.status === 200 && (await hub.json().catch(() => ({}))).version !== undefined;
  assert.ok(!isHub, 'taken for a JupyterHub');
  const root = await fetch(base);
  if (root.url.includes('/login?')) return true;
  if (root.url.includes('/lab?')) return false;
  const tree = await at('tree?');
  return tree.status !== 200 && tree.status !== 404;
}

async function passwordLogin() {
  const page = await at('login?');
  assert.equal(page.status, 200);
  const first = page.headers.getSetCookie()[0].split(';')[0];
  assert.match(first, /^_xsrf=/);
  const xsrf = first.slice('_xsrf='.length);
  const login = await at('login?', {
    method: 'POST',
    headers: { 'Content-Type': 'application/x-www-form-urlencoded;charset=UTF-8', Cookie: first },
    body: new URLSearchParams({ password: token, _xsrf: xsrf })
  });
  assert.equal(login.status, 302);
  const session = login.headers.getSetCookie()[0].split(';')[0];
  return { Cookie: `${first}; ${session}`, 'X-XSRFToken': xsrf };
}

async function validate(headers, query = '') {
  const statuses = {};
  for (const path of ['api/kernels', 'api/kernelspecs', 'api/sessions']) {
    statuses[path] = (await at(path + '?' + query + Date.now(), { headers })).status;
  }
  return statuses;
}

async function main() {
  const result = {
    base: await baseFromPage(),
    needsPassword: await needsPassword(),
    withToken: await validate({ Authorization: `token ${token}` }, `token=${token}&`),
    withPassword: await validate(await passwordLogin())
  };
  console.log(JSON.stringify(result));
}

main().catch(error => { console.error(error); process.exit(1); });

// The command line's way to a supervisor: how long it waits for an answer.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { type ClientRequest, createServer } from 'node:http';
import { test } from 'node:test';
import { ApiClient } from '../../../src/cli/client.js';
import { scratch } from './support.js';

test('an answer is waited for as long as was asked, and not as long as Node waits for idle connections', async () => {
  const dir = scratch();
  const server = createServer((_, response) => response.end('{}'));
  await new Promise<void>((resolve) => server.listen(`${dir.dir}/api.sock`, resolve));
  const waits: unknown[] = [];
  const onRequest = (message: unknown) => {
    waits.push((message as { request: ClientRequest }).request.socket?.timeout);
  };
  subscribe('http.client.request.start', onRequest);
  try {
    const api = new ApiClient({ socket: `${dir.dir}/api.sock` });
    await api.get('/v1/status');
    await api.callSlowly('POST', '/v1/engine/upgrade');
    assert.deepEqual(waits, [30_000, undefined]);
  } finally {
    unsubscribe('http.client.request.start', onRequest);
    server.close();
    dir.remove();
  }
});

// The engine process with the real C core, in a namespace of its own: what each command makes of it.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { buildOf } from '../../src/engine/identity.js';
import { EngineProcess } from '../../src/supervisor/engine-process.js';
import type { EngineConfig, PingResult } from '../../src/supervisor/protocol.js';
import { Cleanup } from '../lab/cleanup.js';
import { SEGMENT_INTERFACE, Segment } from '../lab/netns.js';
import { repoRoot } from '../lab/paths.js';
import { LabProcess } from '../lab/process.js';
import { waitFor } from '../lab/wait.js';

const MAIN = `${repoRoot}/dist/src/engine/main.js`;
/** More than OR_ENGINE_COMMANDS_MAX. */
const EXPORTS = 600;
/** What super-frames leave of the link's 9000. */
const PORT_MTU = 8960;
const config: EngineConfig = {
  role: 'iohv',
  port: { interfaces: [SEGMENT_INTERFACE], mtu: 9000, ethertype: 0x88b5 },
  worker: { cpu: null, nice: 0, spinUs: 0 },
  iohv: { integrity: 'mac', slots: 8, bufferBytes: 8 << 20 },
};

describe('an engine process', () => {
  const cleanup = new Cleanup();
  let segment: Segment;
  let child: LabProcess;
  let socket: string;
  const clients: EngineProcess[] = [];

  before(() => {
    cleanup.onSignals();
    segment = Segment.open(9000, cleanup);
  });

  beforeEach(async () => {
    const dir = mkdtempSync(`${tmpdir()}/outrigger-test-`);
    cleanup.add(() => rmSync(dir, { recursive: true }));
    socket = `${dir}/iohv-engine.1.sock`;
    const argv = segment.wrap('iohv', [process.execPath, MAIN, '--socket', socket]);
    child = new LabProcess({ name: 'engine', argv, logFile: `${dir}/log`, cleanup });
    await waitFor({ what: 'the engine to listen', timeoutMs: 60_000 }, () => existsSync(socket));
  });

  afterEach(() => {
    for (const { client } of clients.splice(0)) {
      client.close();
    }
    child.kill();
  });

  after(() => cleanup.run());

  const claim = async () => {
    const engine = await waitFor({ what: 'the claim', timeoutMs: 60_000 }, () => EngineProcess.claim(socket));
    clients.push(engine);
    return engine;
  };
  const ping = (engine: EngineProcess): Promise<PingResult> => engine.client.request('ping', {});

  test('stands by, is active, is drained, stops and ends', async () => {
    const engine = await claim();
    assert.deepEqual([engine.info.state, engine.info.pid, engine.info.mac], ['standby', child.pid, null]);
    assert.equal(engine.info.build, buildOf(MAIN));
    await engine.activate(config);
    assert.deepEqual([engine.info.state, engine.info.mtu], ['active', PORT_MTU]);
    await engine.client.request('volume.open', {
      name: 'r',
      kind: 'ram',
      size: 1 << 20,
      blockSize: 512,
      readOnly: false,
      flushFailed: false,
    });
    await assert.rejects(engine.activate(config), { code: 'EALREADY' });
    assert.deepEqual(await engine.client.request('drain', { ms: 10 }), { inFlight: 0 });
    assert.equal((await ping(engine)).state, 'drained');
    await engine.end(() => assert.fail('it takes too long'));
    await engine.client.closed;
    assert.equal(await child.ended, 0);
  });

  test('that cannot be activated says why, and stands by as before', async () => {
    const engine = await claim();
    const wrong = { ...config, port: { ...config.port, interfaces: ['nosuch0'] } };
    await assert.rejects(engine.activate(wrong), { message: /nosuch0/ });
    assert.equal((await ping(engine)).state, 'standby');
    await engine.activate(config);
    assert.equal((await ping(engine)).state, 'active');
  });

  test('is prepared without working, for the settings that it is told last', async () => {
    const engine = await claim();
    await engine.prepare({ ...config, iohv: { ...config.iohv, slots: 16 } });
    assert.deepEqual([engine.info.state, engine.info.mtu], ['standby', PORT_MTU]);
    await assert.rejects(engine.client.request('volume.list', {}), { code: 'EOPNOTSUPP' });
    await engine.activate(config);
    assert.equal(engine.info.state, 'active');
    assert.deepEqual(await engine.client.request('volume.list', {}), []);
  });

  test('takes more at once than its core does', async () => {
    const engine = await claim();
    await engine.activate(config);
    const volume = { kind: 'ram' as const, size: 1 << 20, blockSize: 512, readOnly: false, flushFailed: false };
    await engine.client.request('volume.open', { name: 'r', ...volume });
    const exports = Array.from({ length: EXPORTS }, (_, i) => ({
      ...{ id: i + 1, generation: i + 1, volume: 'r', readOnly: true, pending: false },
    }));
    const keyBase64 = Buffer.alloc(32, 1).toString('base64');
    await engine.client.request('host.add', { name: 'h1', keyBase64, keyId: 'k', exports });
    assert.equal((await engine.client.request('export.list', {})).length, EXPORTS);
  });

  test('cuts volumes, and opens clones on what is below the cut', async () => {
    const engine = await claim();
    await engine.activate(config);
    const { client } = engine;
    const dir = dirname(socket);
    const [raw, first, second, clone] = ['raw', 'first', 'second', 'clone'].map((name) => `${dir}/${name}`) as [
      string,
      string,
      string,
      string,
    ];
    const content = (digit: string) => digit.repeat(16);
    const volume = { kind: 'file' as const, readOnly: false, flushFailed: false };
    const sizeBytes = 3 << 20;
    writeFileSync(raw, randomBytes(sizeBytes));
    await client.request('volume.open', { ...volume, name: 'v', path: raw, content: content('a') });
    const create = { path: first, sizeBytes, content: content('b') };
    await client.request('layer.create', create);
    await client.request('layer.create', create); // as after a crash
    await assert.rejects(client.request('layer.create', { ...create, content: content('c') }), { code: 'EEXIST' });
    await client.request('volume.cut', { name: 'v', path: first, content: content('b') });
    await client.request('volume.flush', { name: 'v' });
    assert.deepEqual(await client.request('volume.layers', { name: 'v' }), [
      { path: first, content: content('b'), raw: false, clusters: 0, zeroes: 0 },
      { path: raw, content: content('a'), raw: true, clusters: 0, zeroes: 0 },
    ]);
    const [row] = await client.request('volume.list', {});
    assert.deepEqual([row?.path, row?.content, row?.size], [first, content('b'), sizeBytes]);

    await client.request('layer.create', { path: second, sizeBytes, content: content('d') });
    await assert.rejects(client.request('volume.cut', { name: 'v', path: second, content: content('e') }), {
      message: /second is a layer, but not the one that was asked for/,
    });
    await client.request('volume.cut', { name: 'v', path: second, content: content('d') });

    // A clone, larger than its base, shares the layers below the cut.
    await client.request('layer.create', { path: clone, sizeBytes: 2 * sizeBytes, content: content('f') });
    const layers = [
      { path: clone, content: content('f') },
      { path: first, content: content('b') },
      { path: raw, content: content('a'), raw: true },
    ];
    const head = { path: clone, content: content('f') };
    const geometry = await client.request('volume.open', { ...volume, ...head, name: 'c', layers });
    assert.deepEqual([geometry.size, geometry.blockSize, geometry.discard], [2 * sizeBytes, 512, true]);
    assert.equal((await client.request('volume.layers', { name: 'c' })).length, 3);

    // A snapshot, to be read; and a chain in which something is missing.
    const snapshot = { ...volume, readOnly: true, path: first, content: content('b'), layers: layers.slice(1) };
    await client.request('volume.open', { ...snapshot, name: 's' });
    const third = { path: `${dir}/third`, content: content('9') };
    await client.request('layer.create', { ...third, sizeBytes });
    await assert.rejects(client.request('volume.cut', { ...third, name: 's' }), { message: /it is read-only/ });
    const broken = { ...snapshot, layers: layers.slice(1).reverse() };
    await assert.rejects(client.request('volume.open', { ...broken, name: 'broken' }));

    for (const name of ['s', 'c', 'v']) {
      await client.request('volume.close', { name });
    }
    const all = [{ path: second, content: content('d') }, ...layers.slice(1)];
    await client.request('volume.open', { ...volume, path: second, content: content('d'), name: 'v', layers: all });
  });

  test('knows no commands of its role before it is active', async () => {
    const engine = await claim();
    await assert.rejects(engine.client.request('volume.list', {}), { code: 'EOPNOTSUPP' });
    await assert.rejects(engine.client.request('stats', {}), { code: 'EAGAIN' });
  });

  test('cuts off who talks nonsense, and serves the others', async () => {
    const engine = await claim();
    for (const nonsense of ['{}\n', 'nonsense\n', '[1,2]\n', '{"id":1}\n', 'null\n']) {
      const intruder = connect(socket, () => intruder.write(nonsense));
      await once(intruder, 'close');
    }
    assert.equal((await engine.client.request('ping', {})).state, 'standby');
  });
});

// The engine process with the real C core, on the loopback interface; and what it is made of.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { Coalescer } from '../../../src/engine/coalescer.js';
import { buildOf } from '../../../src/engine/identity.js';
import { LineSplitter } from '../../../src/engine/lines.js';
import { EngineProcess } from '../../../src/supervisor/engine-process.js';
import type { EngineConfig, PingResult } from '../../../src/supervisor/protocol.js';
import { askEngine, ROOT, type Scratch, scratch, until } from './support.js';

const MAIN = `${ROOT}dist/src/engine/main.js`;
const config: EngineConfig = {
  role: 'iohv',
  port: { interfaces: ['lo'], mtu: 9000, ethertype: 0x88b5 },
  worker: { cpu: null, nice: 0, spinUs: 0 },
  iohv: { integrity: 'mac', slots: 8, bufferBytes: 8 << 20 },
};

describe('an engine process', { skip: process.getuid?.() !== 0 && 'needs root' }, () => {
  let dir: Scratch;
  let child: ChildProcess;
  let socket: string;

  beforeEach(async () => {
    dir = scratch();
    socket = `${dir.dir}/iohv-engine.1.sock`;
    child = spawn(process.execPath, [MAIN, '--socket', socket], { stdio: 'inherit' });
    await until('it listens', () => askEngine(socket, 'ping').catch(() => undefined));
  });

  afterEach(() => {
    child.kill('SIGKILL');
    dir.remove();
  });

  const claim = async () => {
    const engine = await EngineProcess.claim(socket);
    assert.ok(engine);
    return engine;
  };
  const ping = async () => (await askEngine(socket, 'ping')) as PingResult;

  test('stands by, is active, is drained, stops and ends', async () => {
    const engine = await claim();
    assert.deepEqual([engine.info.state, engine.info.pid, engine.info.mac], ['standby', child.pid, null]);
    assert.equal(engine.info.build, buildOf(MAIN));
    await engine.activate(config);
    assert.deepEqual([engine.info.state, engine.info.mtu], ['active', 9000]);
    await engine.client.request('volume.open', {
      name: 'r',
      kind: 'ram',
      size: 1 << 20,
      blockSize: 512,
      flushFailed: false,
      readOnly: false,
    });
    await assert.rejects(engine.activate(config), { code: 'EALREADY' });
    assert.deepEqual(await engine.client.request('drain', { ms: 10 }), { inFlight: 0 });
    assert.equal((await ping()).state, 'drained');
    const ended = once(child, 'exit');
    await engine.end(() => assert.fail('it takes too long'));
    await engine.client.closed;
    assert.deepEqual(await ended, [0, null]);
  });

  test('that cannot be activated says why, and stands by as before', async () => {
    const engine = await claim();
    const wrong = { ...config, port: { ...config.port, interface: 'nosuch0' } };
    await assert.rejects(engine.activate(wrong), { message: /nosuch0/ });
    assert.equal((await ping()).state, 'standby');
    await engine.activate(config);
    assert.equal((await ping()).state, 'active');
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

describe('of frequent news', () => {
  let coalescer: Coalescer;
  before(() => {
    coalescer = new Coalescer(30);
  });
  after(() => coalescer.stop());

  test('the first comes through at once, then the last of each interval', async () => {
    const seen: string[] = [];
    for (let i = 0; i < 1000; i++) {
      coalescer.offer('h1', () => seen.push(`h1 ${i}`));
      coalescer.offer('h2', () => seen.push(`h2 ${i}`));
    }
    assert.deepEqual(seen, ['h1 0', 'h2 0']);
    await until('the last ones', () => seen.length === 4);
    assert.deepEqual(seen.slice(2).sort(), ['h1 999', 'h2 999']);
  });
});

test('a stream is split into lines, and one without end is noticed', () => {
  const lines = new LineSplitter(8);
  assert.deepEqual(lines.feed('a\nbc'), ['a']);
  assert.deepEqual(lines.feed('d\n\n'), ['bcd', '']);
  assert.equal(lines.feed('123456789'), undefined);
});

// Volumes that leave and come, through a real REST interface on a unix socket and the command line as a process.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type IncomingMessage, request } from 'node:http';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import xxhash from 'xxhash-addon';
import type { DigestView, ImportView, Problem, VolumeView } from '../../../src/api/schemas.js';
import { ApiClient } from '../../../src/cli/client.js';
import { OutriggerError } from '../../../src/errors.js';
import { Transfers } from '../../../src/supervisor/transfers.js';
import { beginIohv, type Life } from './iohv-life.js';
import { CLUSTER, writeOverlay } from './overlay-file.js';
import { outrigger, ROOT, type Scratch, scratch, until } from './support.js';

const MIB = 1 << 20;

let dir: Scratch;
let life: Life;
let api: ApiClient;
const socket = () => `${dir.dir}/api.sock`;
const cli = (...args: string[]) => outrigger(args, { OUTRIGGER_SOCKET: socket() });

beforeEach(async () => {
  dir = scratch();
  life = await beginIohv(dir);
  api = new ApiClient({ socket: socket() });
  await until('the engine runs', () => life.supervisor.engineStatus().state === 'running');
});

afterEach(async () => {
  await life.end();
  dir.remove();
});

const volume = (name: string) => `/v1/volumes/${name}`;
const fileOf = (name: string) => `${dir.dir}/volumes/${name}.raw`;
const volumeFiles = () => readdirSync(`${dir.dir}/volumes`).sort();

/** A volume with these pieces at these places; everything else is a hole. */
async function make(name: string, size: number, pieces: Record<number, Buffer> = {}): Promise<void> {
  await api.call('PUT', volume(name), { size });
  const file = await open(fileOf(name), 'r+');
  for (const [at, bytes] of Object.entries(pieces)) {
    await file.write(bytes, 0, bytes.length, Number(at));
  }
  await file.close();
}

async function exported(name: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await api.download(`${volume(name)}/export`)) {
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks);
}

const imported = (name: string, stream: Buffer) =>
  api.upload<ImportView>(`${volume(name)}/import`, Readable.from([stream], { objectMode: false }));

const refusal = (code: string, detail: RegExp) => (error: unknown) => {
  assert.ok(error instanceof OutriggerError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, detail);
  return true;
};

test('layers that become one while they are opened are read as they are then', async () => {
  const [below, above] = [randomBytes(CLUSTER), randomBytes(CLUSTER)];
  await make('d1', MIB, { 0: below });
  await api.call('POST', `${volume('d1')}/snapshots`, { name: 'first' });
  await api.call('POST', `${volume('d1')}/snapshots`, { name: 'second' });
  const [head, upper, lower] = life.store.desired().volumes[0]?.layers ?? [];
  assert.ok(head !== undefined && upper !== undefined && lower !== undefined);
  await writeOverlay(head, new Map());
  await writeOverlay(upper, new Map([[1, above]]));
  const { store, supervisor, log } = life;
  const transfers = new Transfers({ store, supervisor, log, volumeDir: `${dir.dir}/volumes`, applyTimeoutMs: 5000 });
  const digest = () => transfers.digest('d1', null, new AbortController().signal);
  const before = await digest();
  const after = digest(); // what it opens first is the head
  const file = openSync(lower.path, 'r+');
  writeSync(file, above, 0, CLUSTER, CLUSTER);
  closeSync(file);
  store.layers.removeSnapshot('d1', 'first');
  assert.ok(store.layers.merged({ upper, lower }));
  rmSync(upper.path);
  assert.deepEqual(await after, before);
  rmSync(lower.path);
  await assert.rejects(digest(), refusal('storage_failed', /d1.raw cannot be opened/));
});

/** An export whose client has read its beginning and nothing more. */
function stuckExport(name: string): Promise<{ response: IncomingMessage; end(): void }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: socket(), path: `${volume(name)}/export` }, (response) => {
      response.on('error', () => {}); // it is cut off on purpose
      resolve({ response, end: () => sent.destroy() });
    });
    sent.on('error', reject).end();
  });
}

test('a volume comes back as it was: random, compressible, sparse, and as small on the disk', async () => {
  const size = 40 * MIB + 512;
  await make('d1', size, {
    0: Buffer.from('a boot sector'),
    [5 * MIB + 4096]: randomBytes(2 * MIB),
    [20 * MIB]: Buffer.alloc(3 * MIB, 'compressible '),
    [size - 512]: randomBytes(512),
  });
  const stream = await exported('d1');
  assert.ok(stream.length < 4 * MIB);
  const result = await imported('d2', stream);
  const content = readFileSync(fileOf('d1'));
  assert.ok(readFileSync(fileOf('d2')).equals(content));
  assert.equal(statSync(fileOf('d2')).mode & 0o777, 0o600);
  assert.ok(statSync(fileOf('d2')).blocks * 512 < 7 * MIB, 'sparse');
  const digest = xxhash.XXHash128.hash(content).toString('hex');
  assert.deepEqual(result, { bytes: size, stored: stream.length, digest });
  for (const name of ['d1', 'd2']) {
    assert.deepEqual(await api.get<DigestView>(`${volume(name)}/digest`), { bytes: size, digest });
  }
  const view = await api.get<VolumeView>(volume('d2'));
  assert.deepEqual([view.state, view.size, view.adopted, view.kind], ['open', size, false, 'file']);
  assert.deepEqual(volumeFiles(), ['d1.raw', 'd2.raw']);
  await api.call('DELETE', volume('d2'));
  assert.deepEqual(volumeFiles(), ['d1.raw'], 'it is a volume like any other');
});

test('of a stream that is not right nothing is kept, and the name stays free', async () => {
  await make('d1', 4 * MIB, { 0: randomBytes(2 * MIB) });
  const stream = await exported('d1');
  const flipped = Buffer.from(stream);
  flipped[MIB + 5000] = (flipped[MIB + 5000] ?? 0) ^ 1;
  const cases: [Buffer, string, RegExp][] = [
    [flipped, 'stream_damaged', /damaged at byte 1048712: the digest of a raw record is wrong/],
    [stream.subarray(0, stream.length - 1), 'stream_damaged', /: it ends within a tail record/],
    [stream.subarray(0, MIB), 'stream_damaged', /at byte 1048576: it ends within a raw record/],
    [Buffer.alloc(0), 'stream_damaged', /at byte 0: it ends within the header/],
    [Buffer.concat([stream, stream]), 'stream_damaged', /: something follows the end/],
    [randomBytes(16 * MIB), 'stream_foreign', /at byte 0/],
  ];
  for (const [bytes, code, detail] of cases) {
    await assert.rejects(imported('d2', bytes), refusal(code, detail));
    await assert.rejects(api.get(volume('d2')), refusal('volume_not_found', /d2/));
    assert.deepEqual(volumeFiles(), ['d1.raw']);
  }
  assert.equal((await imported('d2', stream)).bytes, 4 * MIB);
});

test('a client that dies in the middle of an import leaves nothing', async () => {
  await make('d1', 8 * MIB, { 0: randomBytes(8 * MIB) });
  const stream = await exported('d1');
  const sent = request({
    ...{ socketPath: socket(), path: `${volume('d2')}/import`, method: 'PUT' },
    headers: { 'content-type': 'application/octet-stream' },
  });
  sent.on('error', () => {}); // it is cut off on purpose
  sent.write(stream.subarray(0, 5 * MIB));
  await until('it has begun', () => volumeFiles().includes('d2.raw.importing'));
  await assert.rejects(imported('d2', stream), refusal('volume_in_transfer', /d2 is being imported/));
  await assert.rejects(
    api.call('PUT', volume('d2'), { size: MIB }),
    refusal('volume_in_transfer', /d2 is being imported/),
  );
  sent.destroy();
  await until('it is gone', () => !volumeFiles().includes('d2.raw.importing'));
  await until('the name is free', () => imported('d2', stream).catch(() => false as const));
  assert.deepEqual(volumeFiles(), ['d1.raw', 'd2.raw']);
});

test('while a volume is exported nobody may begin to write to it; a client that dies ends the export', async () => {
  await make('d1', 64 * MIB, { 0: randomBytes(64 * MIB) });
  const { end } = await stuckExport('d1');
  const attach = (vm: string, read_only: boolean) =>
    api.call('POST', '/v1/attachments', { vm, host: 'h1', disks: [{ volume: 'd1', read_only }] });
  await assert.rejects(attach('web', false), refusal('volume_in_transfer', /d1 is being exported/));
  await assert.rejects(api.call('DELETE', volume('d1')), refusal('volume_in_transfer', /d1 is being exported/));
  await attach('reader', true);
  await api.call('DELETE', '/v1/vms/reader');
  await api.call('PUT', volume('d1'), { size: 64 * MIB });
  const second = await stuckExport('d1');
  end();
  await assert.rejects(attach('web', false), refusal('volume_in_transfer', /d1/), 'the second one goes on');
  second.end();
  await until('it is free', () =>
    attach('web', false).then(
      () => true,
      () => false,
    ),
  );
  await assert.rejects(
    api.download(`${volume('d1')}/export`),
    refusal('volume_in_use', /d1 is attached to web \(disk d1\)/),
  );
  await assert.rejects(api.get(`${volume('d1')}/digest`), refusal('volume_in_use', /d1/));
});

test('what cannot be exported or imported is refused before a byte flows', async () => {
  await make('d1', MIB);
  const stream = await exported('d1');
  await api.call('PUT', volume('r1'), { size: MIB, kind: 'ram' });
  await api.call('PUT', volume('bad1'), { size: MIB });
  const download = (name: string) => api.download(`${volume(name)}/export`);
  await assert.rejects(download('r1'), refusal('volume_without_file', /r1 has no file/));
  await assert.rejects(download('none'), refusal('volume_not_found', /none/));
  await assert.rejects(download('bad1'), refusal('volume_not_ready', /does not have open the volume bad1/));
  await assert.rejects(imported('d1', stream), refusal('volume_exists', /d1 exists/));
  writeFileSync(fileOf('d2'), 'precious');
  await assert.rejects(imported('d2', stream), refusal('volume_file_exists', /d2\.raw exists/));
  assert.equal(readFileSync(fileOf('d2'), 'utf8'), 'precious');
  await assert.rejects(
    api.call('PUT', `${volume('d3')}/import`, { size: MIB }),
    refusal('invalid_request', /Unsupported Media Type|must be the stream/),
  );
  const answer = await fetchHead(`${volume('d1')}/export`);
  assert.equal(answer, 404, 'HEAD reads no volume');
});

test('an import whose file cannot be written is refused with the reason', async () => {
  await make('d1', 4 * MIB, { 0: randomBytes(4 * MIB) });
  const stream = await exported('d1');
  mkdirSync(`${fileOf('d2')}.importing`);
  await assert.rejects(
    imported('d2', stream),
    refusal('storage_failed', /d2\.raw\.importing cannot be written: EISDIR/),
  );
  await assert.rejects(api.get(volume('d2')), refusal('volume_not_found', /d2/));
  rmdirSync(`${fileOf('d2')}.importing`);
  assert.equal((await imported('d2', stream)).bytes, 4 * MIB);
});

function fetchHead(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request({ socketPath: socket(), path, method: 'HEAD' }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    })
      .on('error', reject)
      .end();
  });
}

test('a file that shrinks under an export ends it, and the client hears that it is not whole', async () => {
  await make('d1', 64 * MIB, { 0: randomBytes(64 * MIB) });
  const { response } = await stuckExport('d1');
  truncateSync(fileOf('d1'), MIB);
  response.resume();
  await until('it has ended', () => response.destroyed);
  assert.equal(response.complete, false);
});

test('what an import left when its supervisor was killed goes at the next start', async () => {
  await make('d1', MIB, { 0: randomBytes(512) });
  await life.end();
  writeFileSync(`${fileOf('d2')}.importing`, 'half');
  life = await beginIohv(dir);
  assert.deepEqual(volumeFiles(), ['d1.raw']);
});

test('the command line saves, checks and brings back, also through a pipe', async () => {
  await make('d1', 8 * MIB, { 4096: randomBytes(MIB) });
  const file = `${dir.dir}/d1.orvol`;
  const saved = await cli('volume', 'export', 'd1', file, '--json');
  assert.equal(saved.code, 0, saved.stderr);
  const result = JSON.parse(saved.stdout) as ImportView;
  assert.deepEqual([result.bytes, result.stored], [8 * MIB, statSync(file).size]);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const again = await cli('volume', 'export', 'd1', file);
  assert.deepEqual([again.code, /d1\.orvol exists \(usage\)/.test(again.stderr)], [2, true]);

  const back = await cli('volume', 'import', 'd2', file);
  assert.equal(back.code, 0, back.stderr);
  assert.equal(back.stdout, `imported d2: 8M in a stream of 1.0M, digest ${result.digest}\n`);
  assert.equal((await cli('volume', 'digest', 'd2')).stdout, `${result.digest}\n`);

  const outriggerPath = `${ROOT}bin/outrigger`;
  const pipe = `${outriggerPath} volume export d1 - | ${outriggerPath} volume import d3 - --json`;
  const env = { ...process.env, OUTRIGGER_SOCKET: socket() };
  const piped = await promisify(execFile)('bash', ['-o', 'pipefail', '-c', pipe], { env });
  assert.deepEqual(JSON.parse(piped.stdout), result);
  assert.match(piped.stderr, /^exported d1: 8M /);
  assert.ok(readFileSync(fileOf('d3')).equals(readFileSync(fileOf('d1'))));

  writeFileSync(file, readFileSync(file).subarray(0, 100_000));
  const broken = await cli('volume', 'import', 'd4', file);
  assert.equal(broken.code, 1);
  assert.match(broken.stderr, /^error: the stream is damaged at byte 100000: .* \(stream_damaged\)\n {2}hint: nothing/);
  assert.equal((await cli('volume', 'import', 'd4', `${dir.dir}/none`)).code, 2);
  assert.equal((await cli('volume', 'export', 'none', `${dir.dir}/none`)).code, 1);
  assert.ok(!existsSync(`${dir.dir}/none`));
});

test('a refusal reaches a client that has much left to send', async () => {
  await make('d1', MIB);
  const file = `${dir.dir}/large`;
  writeFileSync(file, randomBytes(64 * MIB));
  for (let i = 0; i < 3; i++) {
    const refused = await cli('volume', 'import', 'd1', file);
    assert.match(refused.stderr, /\(volume_exists\)/);
    const foreign = await cli('volume', 'import', 'd2', file);
    assert.match(foreign.stderr, /\(stream_foreign\)/);
  }
});

test('a killed command line ends its export and its import', async () => {
  await make('d1', 64 * MIB, { 0: randomBytes(64 * MIB) });
  const env = { ...process.env, OUTRIGGER_SOCKET: socket() };
  const start = (...args: string[]) =>
    spawn(process.execPath, [`${ROOT}dist/src/cli/main.js`, 'volume', ...args], { env });
  const exporting = start('export', 'd1', '-');
  await once(exporting.stdout, 'readable'); // and nobody reads on
  await assert.rejects(api.call('DELETE', volume('d1')), refusal('volume_in_transfer', /d1/));
  exporting.kill('SIGKILL');

  const importing = start('import', 'd2', '-');
  importing.stdin.on('error', () => {}); // it is killed with much left to read
  importing.stdin.write((await exported('d1')).subarray(0, 20 * MIB));
  await until('it has begun', () => volumeFiles().includes('d2.raw.importing'));
  importing.kill('SIGKILL');
  await until('it is gone', () => !volumeFiles().includes('d2.raw.importing'));
  await until('the export is over', () =>
    api.call('DELETE', volume('d1')).then(
      () => true,
      () => false,
    ),
  );
});

test('an export that broke off leaves no file, whether the connection says so or not', async () => {
  await make('d1', 4 * MIB, { 0: randomBytes(4 * MIB) });
  const stream = await exported('d1');
  const liar = createServer((incoming, response) => {
    response.write(stream.subarray(0, 2 * MIB), () => {
      if (incoming.url?.includes('/cut/')) {
        response.destroy();
      } else {
        response.end();
      }
    });
  }).listen(`${dir.dir}/liar.sock`);
  const file = `${dir.dir}/d1.orvol`;
  try {
    for (const [name, code] of [
      ['cut', 'transfer_broken'],
      ['short', 'stream_damaged'],
    ] as const) {
      const { code: exit, stderr } = await outrigger([
        ...['volume', 'export', name, file],
        ...['--socket', `${dir.dir}/liar.sock`],
      ]);
      assert.equal(exit, 1, stderr);
      assert.match(stderr, new RegExp(`\\(${code}\\)`));
      assert.ok(!existsSync(file));
    }
  } finally {
    liar.close();
  }
});

test('a problem of an import is a problem document', async () => {
  await make('d1', MIB);
  const answer = await new Promise<Problem>((resolve, reject) => {
    const headers = { 'content-type': 'application/octet-stream' };
    const path = `${volume('d2')}/import`;
    const sent = request({ socketPath: socket(), path, method: 'PUT', headers }, async (response) => {
      assert.equal(response.statusCode, 422);
      assert.match(response.headers['content-type'] ?? '', /^application\/problem\+json/);
      resolve(JSON.parse((await response.toArray()).join('')) as Problem);
    });
    sent.on('error', reject).end('not a stream'.repeat(100));
  });
  assert.equal(answer.code, 'stream_foreign');
});

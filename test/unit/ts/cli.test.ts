// The command line as its users meet it: every command is a process of its own, against supervisors that are
// processes of their own, with the engine's double.
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { after, afterEach, beforeEach, test } from 'node:test';
import type { EventView, HostStatus, IohvStatus, VmView, VolumeView } from '../../../src/api/schemas.js';
import { generateKey } from '../../../src/config/keys.js';
import {
  commandsOf,
  ENGINE_DOUBLE,
  emit,
  engines,
  type IohvFiles,
  iohvFiles,
  outrigger,
  ROOT,
  type Scratch,
  scratch,
  tellEngine,
  until,
} from './support.js';

interface Daemon {
  child: ChildProcess;
  log(): string;
}

let dir: Scratch;
let files: IohvFiles;
let daemons: Daemon[];
/** Engines that a killed supervisor left behind. */
const orphans = new Set<number>();

beforeEach(() => {
  dir = scratch();
  files = iohvFiles(dir);
  daemons = [];
});

afterEach(async () => {
  await Promise.all(daemons.map((daemon) => end(daemon, 'SIGTERM')));
  dir.remove();
});

after(() => {
  for (const pid of orphans) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // it ended as it should
    }
  }
});

function launch(role: 'iohv' | 'host', config: string): Daemon {
  const child = spawn(`${ROOT}bin/outrigger`, [role, '--config', config, '--engine', ENGINE_DOUBLE], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (chunk) => {
    text += chunk;
  });
  const daemon = { child, log: () => text };
  daemons.push(daemon);
  return daemon;
}

async function start(role: 'iohv' | 'host', config: string): Promise<Daemon> {
  const daemon = launch(role, config);
  await until(`${role} runs: ${daemon.log()}`, () => daemon.log().includes('engine.learnt'));
  return daemon;
}

/** Returns the exit code, null when a signal ended it. */
async function end({ child }: Daemon, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) {
    return child.exitCode;
  }
  child.kill(signal);
  await once(child, 'exit');
  return child.exitCode;
}

const cli = (...args: string[]) => outrigger(args, { OUTRIGGER_SOCKET: files.socket });

async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await cli(...args, '--json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

const enginePid = async () => {
  const { engine } = await json<IohvStatus>('status');
  orphans.add(engine.pid ?? 0);
  return engine.pid;
};

test('from an empty I/O hypervisor to the arguments of a VM and back', async () => {
  await start('iohv', files.config);
  const created = await cli('volume', 'create', 'disk1', '--size', '1.5G');
  assert.equal(created.code, 0, created.stderr);
  assert.match(created.stdout, /^size +1\.5G \(1610612736 bytes, blocks of 512\)$/m);
  assert.equal((await cli('volume', 'create', 'disk1', '--size', '1536M')).code, 0, 'the same once more');
  assert.equal((await cli('volume', 'create', 'iso', '--size', '8K', '--kind', 'ram', '--block-size', '4096')).code, 0);

  const attached = await cli(
    'attach',
    'web1',
    '--host',
    'h1',
    '--disk',
    'disk1,queues=4,weight=300,name=root',
    '--disk',
    'iso,ro',
    '--weight',
    '50',
  );
  assert.equal(attached.code, 0, attached.stderr);
  const vm = await json<VmView>('vm', 'show', 'web1');
  assert.deepEqual(
    vm.disks.map(({ disk, queues, read_only, weight }) => [disk, queues, read_only, weight]),
    [
      ['root', 4, false, 300],
      ['iso', 1, true, 50],
    ],
  );
  const weights = async () => (await json<VmView>('vm', 'show', 'web1')).disks.map(({ weight }) => weight);
  assert.match((await cli('vm', 'set', 'web1', '--disk', 'iso', '--weight', '1000')).stdout, /iso .* 1000 /);
  assert.deepEqual(await weights(), [300, 1000]);
  assert.equal((await cli('vm', 'set', 'web1', '--weight', '100')).code, 0);
  assert.deepEqual(await weights(), [100, 100]);
  for (const weight of ['0', '1001', '1.5']) {
    assert.notEqual((await cli('vm', 'set', 'web1', '--weight', weight)).code, 0);
  }
  assert.deepEqual(await weights(), [100, 100]);

  const guess = await cli('vm', 'args', 'web1', '--memory', '512M', '--cpus', '2');
  assert.match(guess.stderr, /^note: the host h1 has not reported/);
  assert.equal(
    guess.stdout,
    `-m 512M
-smp 2
-object memory-backend-memfd,id=outrigger-mem,size=512M,share=on
-machine memory-backend=outrigger-mem
-chardev socket,id=outrigger-root-socket,path=/run/outrigger/vhost/web1/root.sock,reconnect=1
-device vhost-user-blk-pci,id=outrigger-root,chardev=outrigger-root-socket,num-queues=4,bootindex=1
-chardev socket,id=outrigger-iso-socket,path=/run/outrigger/vhost/web1/iso.sock,reconnect=1
-device vhost-user-blk-pci,id=outrigger-iso,chardev=outrigger-iso-socket,num-queues=1,bootindex=2
`,
  );
  const modern = await json<string[]>('vm', 'args', 'web1', '--qemu-version', '10.0.2');
  assert.ok(modern.some((arg) => arg.endsWith('root.sock,reconnect-ms=100')));
  assert.match(
    (await cli('vm', 'args', 'web1', '--format', 'libvirt')).stdout,
    /<source type='unix' path='.*root\.sock'>/,
  );

  const changed = await cli('volume', 'set', 'disk1', '--io-timeout', '1.5s');
  assert.match(changed.stdout, /^I\/O timeout +1500 ms$/m);
  assert.match((await cli('volume', 'set', 'disk1', '--io-timeout', 'soon')).stderr, /is not a time such as 500ms/);
  assert.match((await cli('volume', 'set', 'disk1', '--io-timeout', 'none')).stdout, /^I\/O timeout +none$/m);
  const listed = await cli('volume', 'ls');
  assert.match(
    listed.stdout,
    /^NAME +KIND +SIZE +STATE +WORKER +TIMEOUT +ATTACHED TO +CLONE OF +PATH\ndisk1 +file +1\.5G +open +0 +- +web1 +- +/,
  );
  assert.match((await cli('host', 'ls')).stdout, /^h1 +down .*\nh2 +down /m);
  const status = await cli('status');
  assert.match(status.stdout, /^engine +running, pid \d+(, standby \w+)?$/m);
  assert.match(status.stdout, /! host h1 is not connected and has 2 disks/);

  assert.match((await cli('detach', 'web1', '--disk', 'disk1')).stdout, /detached disk1 from web1/);
  assert.equal((await cli('detach', 'web1')).code, 0);
  assert.equal((await cli('volume', 'rm', 'disk1')).stdout, 'removed disk1\n');
  assert.deepEqual(
    (await json<VolumeView[]>('volume', 'ls')).map(({ name }) => name),
    ['iso'],
  );
});

test('a NIC from its making to the arguments of its VM, and back', async () => {
  await start('iohv', files.config);
  const created = await cli('nic', 'create', 'nic1', '--hub', 'lab', '--mtu', '9000', '--rate', 'tx=100M,burst=64K');
  assert.equal(created.code, 0, created.stderr);
  assert.match(created.stdout, /^where +hub lab$/m);
  assert.match(created.stdout, /^rate tx +100Mbit\/s, bursts of 64K$/m);
  const attached = await cli('attach', 'web1', '--host', 'h1', '--nic', 'nic1,queues=2,qmp=/run/web1.qmp');
  assert.match(attached.stdout, /^VM +HOST +NIC +MAC .*\nweb1 +h1 +nic1 +52:54:00:/m);
  assert.match((await cli('vm', 'args', 'web1')).stdout, /^-netdev vhost-user,.*,queues=2$/m);
  const changed = await cli('nic', 'set', 'nic1', '--link', 'down', '--address', '10.0.0.5', '--no-spoof-check');
  assert.match(changed.stdout, /^link +down$/m);
  assert.match(changed.stdout, /^addresses +10\.0\.0\.5$/m);
  assert.match(changed.stdout, /^spoof check +off$/m);
  assert.match((await cli('nic', 'show', 'nic1')).stdout, /^tx +packets 3, bytes 180, errors 0, dropped: spoofed 2$/m);
  assert.match((await cli('nic', 'ls')).stdout, /^nic1 +52:.* +9000 +down +open +web1 on h1 \(pending\) +hub lab$/m);
  assert.match((await cli('status')).stdout, /^nic1 +52:/m);
  assert.match((await cli('nic', 'rm', 'nic1')).stderr, /nic_in_use.*\n {2}hint: .*outrigger detach web1 --nic nic1/);
  assert.match((await cli('detach', 'web1', '--nic', 'nic1')).stdout, /detached nic1 from web1/);
  assert.equal((await cli('nic', 'rm', 'nic1')).stdout, 'removed nic1\n');
  for (const wrong of [
    ['nic', 'create', 'n', '--hub', 'a', '--bridge', 'b'],
    ['nic', 'create', 'n', '--macvtap', 'eth1,fast'],
    ['nic', 'set', 'nic1'],
    ['attach', 'web1', '--host', 'h1', '--nic', 'nic1,queues=x'],
  ]) {
    assert.equal((await cli(...wrong)).code, 2, wrong.join(' '));
  }
});

test('what the supervisor refuses ends with exit code 1 and says how to mend it', async () => {
  await start('iohv', files.config);
  await cli('volume', 'create', 'disk1', '--size', '1M');
  const unknown = await cli('attach', 'web1', '--host', 'vmhost9', '--disk', 'disk1');
  assert.equal(unknown.code, 1);
  assert.equal(unknown.stdout, '');
  assert.equal(
    unknown.stderr,
    'error: there is no host vmhost9 (host_not_found)\n  hint: known hosts: h1, h2; hosts are listed in the configuration of the I/O hypervisor (`hosts:`, then SIGHUP)\n',
  );
  await cli('attach', 'web1', '--host', 'h1', '--disk', 'disk1');
  const twice = await cli('attach', 'web2', '--host', 'h2', '--disk', 'disk1');
  assert.equal(twice.code, 1);
  assert.match(
    twice.stderr,
    /^error: the volume disk1 is attached read-write to the VM web1 on host h1 \(volume_busy\)\n {2}hint: detach it there \(`outrigger detach web1 --disk disk1`\)/,
  );
  assert.equal((await cli('volume', 'rm', 'disk1')).code, 1);
  assert.match(
    (await cli('detach', 'web1', '--disk', 'nope')).stderr,
    /no disk nope \(disk_not_found\)\n {2}hint: disks of web1: disk1/,
  );
});

const wrong: [string, string[], RegExp][] = [
  [
    'an unknown command',
    ['volum', 'ls'],
    /^error: unknown command `volum`\. Did you mean volume\? \(usage\)\n {2}hint: see `outrigger --help`/,
  ],
  ['an unknown sub-command', ['volume', 'lss'], /unknown command `volume lss`\. Did you mean ls\?/],
  ['an unknown option', ['status', '--jsno'], /Unknown argument: jsno/],
  [
    'a missing name',
    ['volume', 'show'],
    /an argument is missing \(0 given, 1 needed\).*\n {2}hint: see `outrigger volume show --help`/,
  ],
  ['a missing option', ['attach', 'web1', '--disk', 'd1'], /Missing required argument: host/],
  ['a size that is none', ['volume', 'create', 'd1', '--size', '10Q'], /--size 10Q is not a size such as 512M, 10G/],
  ['neither size nor adopt', ['volume', 'create', 'd1'], /neither --size nor --adopt is given/],
  [
    'a kind that is none',
    ['volume', 'create', 'd1', '--size', '1G', '--kind', 'tape'],
    /Invalid values:.*kind.*"tape"/,
  ],
  [
    'a bad disk',
    ['attach', 'w', '--host', 'h', '--disk', 'd1,rw=0'],
    /--disk d1,rw=0: unknown option `rw=0`; known: ro, queues=N/,
  ],
  ['no command', [], /a command is needed/],
  ['a supervisor without configuration', ['iohv'], /iohv needs --config FILE/],
  ['a URL without token', ['status', '--url', 'https://x:1'], /--url needs --token-file FILE/],
  ['a URL that is none', ['status', '--url', 'x:1'], /--url must be like https:/],
];

for (const [name, args, message] of wrong) {
  test(`${name} ends with exit code 2`, async () => {
    const { code, stderr, stdout } = await outrigger(args);
    assert.equal(code, 2);
    assert.match(stderr, message);
    assert.match(stderr, /\n {2}hint: /);
    assert.equal(stdout, '');
  });
}

test('an option that counts once is refused when it is doubled, and one that may be repeated is not', async () => {
  const doubled: [args: string[], option: string][] = [
    [['volume', 'create', 'd1', '--size', '1M', '--size', '2M'], '--size'],
    [['cache', 'set', '--size', '1M', '--size', '1M'], '--size'],
    [['protect', 'domain', 'set', 'ft', '--commit-timeout', '1s', '--commit-timeout=2s'], '--commit-timeout'],
    [['protect', 'domain', 'set', 'ft', '--overflow', 'push-back', '--overflow', 'unprotect'], '--overflow'],
    [['iohv', '--config', files.config, '--config', files.config], '--config'],
  ];
  for (const [args, option] of doubled) {
    const { code, stderr } = await outrigger(args, { OUTRIGGER_SOCKET: files.socket });
    assert.equal(code, 2, stderr);
    assert.match(stderr, new RegExp(`^error: ${option} may be given only once \\(usage\\)\n +hint: see \`outrigger `));
  }
  const twice = ['attach', 'web', '--host', 'h1', '--disk', 'd1', '--disk', 'd2', '--json', '--json'];
  assert.equal((await outrigger(twice, { OUTRIGGER_SOCKET: files.socket })).code, 3, 'it got as far as to ask');
});

test('a supervisor that is not there ends with exit code 3', async () => {
  const { code, stderr } = await cli('volume', 'ls');
  assert.equal(code, 3);
  assert.match(stderr, /^error: no supervisor at .*iohv\.sock: ENOENT \(unreachable\)\n {2}hint: start it/);
});

test('a wrong configuration ends with exit code 78, in the check and at the start', async () => {
  chmodSync(`${dir.dir}/h1.key`, 0o640);
  const checked = await outrigger(['config', 'check', files.config]);
  assert.equal(checked.code, 78);
  assert.match(
    checked.stderr,
    /iohv\.yaml:6:27: hosts\[0\]\.key_file: .*h1\.key can be read by others than its owner \(mode 0640\)\n {2}hint: run: chmod 600 /,
  );
  const started = await outrigger(['iohv', '--config', files.config, '--engine', ENGINE_DOUBLE]);
  assert.deepEqual([started.code, started.stderr], [78, checked.stderr]);
  chmodSync(`${dir.dir}/h1.key`, 0o600);
  assert.match((await outrigger(['config', 'check', files.config])).stdout, /iohv\.yaml is right \(iohv\)/);
});

test('every command explains itself', async () => {
  for (const args of [
    [],
    ['volume', 'create'],
    ['attach'],
    ['detach'],
    ['vm', 'args'],
    ['key', 'generate'],
    ['iohv'],
    ['top'],
    ['events'],
  ]) {
    const { code, stdout } = await outrigger([...args, '--help']);
    assert.equal(code, 0);
    assert.match(stdout, args.length === 0 ? /Start here/ : /Examples:/, args.join(' '));
  }
  assert.match((await outrigger(['completion'])).stdout, /complete .*outrigger/);
});

test('keys and tokens are made for their owner only, and never overwritten', async () => {
  const file = `${dir.dir}/new.key`;
  assert.equal((await outrigger(['key', 'generate', file])).code, 0);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const text = readFileSync(file, 'utf8');
  const again = await outrigger(['key', 'generate', file]);
  assert.deepEqual([again.code, readFileSync(file, 'utf8')], [2, text]);
  assert.match(again.stderr, /new\.key exists/);
  assert.equal(Buffer.from((await outrigger(['key', 'generate'])).stdout, 'base64').length, 32);
});

test('over HTTPS a token opens the door, and nothing else does', async () => {
  const [cert, key, tokens] = [`${dir.dir}/cert.pem`, `${dir.dir}/key.pem`, `${dir.dir}/tokens`];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
      ...subject,
      '-keyout',
      key,
      '-out',
      cert,
    ],
    { stdio: 'ignore' },
  );
  chmodSync(key, 0o600);
  const token = (await outrigger(['token', 'add', tokens, 'alice'])).stdout;
  assert.ok(!readFileSync(tokens, 'utf8').includes(token.trim()), 'only its digest is kept');
  const listen = `{ address: 127.0.0.1, port: 0, cert: ${cert}, key: ${key}, tokens_file: ${tokens} }`;
  files = iohvFiles(dir, `api: { listen: ${listen} }\n`);
  const daemon = await start('iohv', files.config);
  const port = /api\.listening address=127\.0\.0\.1 port=(\d+)/.exec(daemon.log())?.[1];
  const url = ['--url', `https://localhost:${port}`];
  const remote = (tokenText: string, ...extra: string[]) =>
    outrigger(['volume', 'ls', ...url, '--token-file', dir.file('token', tokenText), ...extra]);

  const good = await remote(token, '--ca', cert);
  assert.deepEqual([good.code, good.stderr], [0, '']);
  const events = await outrigger([
    ...['events', '--url', `https://localhost:${port}`, '--token-file', `${dir.dir}/token`, '--ca', cert],
  ]);
  assert.match(events.stdout, /api\.listening address=127\.0\.0\.1/);

  const door = [...url, '--token-file', dir.file('token', token), '--ca', cert];
  await cli('volume', 'create', 'disk1', '--size', '3M');
  writeFileSync(`${dir.dir}/volumes/disk1.raw`, randomBytes(3 << 20));
  const saved = await outrigger(['volume', 'export', 'disk1', `${dir.dir}/disk1.orvol`, ...door]);
  assert.equal(saved.code, 0, saved.stderr);
  const back = await outrigger(['volume', 'import', 'disk2', `${dir.dir}/disk1.orvol`, ...door]);
  assert.equal(back.stdout, saved.stdout.replace('exported disk1', 'imported disk2'));

  const bad = await remote('guess', '--ca', cert);
  assert.equal(bad.code, 1);
  assert.match(bad.stderr, /^error: the token is not known \(unauthorized\)/);
  const stranger = await remote(token);
  assert.equal(stranger.code, 3);
  assert.match(
    stranger.stderr,
    /DEPTH_ZERO_SELF_SIGNED_CERT.*\n {2}hint: name the server's certificate with --ca FILE/,
  );
  writeFileSync(tokens, '');
  assert.equal((await remote(token, '--ca', cert)).code, 1, 'a token that was taken away');
});

test('events are listed as text and JSON, and followed', async () => {
  await start('iohv', files.config);
  const known = await json<EventView[]>('events');
  assert.ok(known.some(({ kind, fields }) => kind === 'engine.learnt' && fields.hosts === 0));
  const text = await cli('events');
  assert.match(text.stdout, /^\d{4}-\d\d-\d\dT[\d:.]+Z info {2}engine\.up pid=\d+ mac=\S+ mtu=9000$/m);

  const after = String(known.at(-1)?.seq);
  const child = spawn(`${ROOT}bin/outrigger`, [
    'events',
    '--follow',
    '--json',
    '--after',
    after,
    '--socket',
    files.socket,
  ]);
  let lines = '';
  child.stdout.on('data', (chunk) => {
    lines += chunk;
  });
  await cli('volume', 'create', 'disk1', '--size', '1M');
  await until('it is told', () => lines.includes('"volume.created"'));
  await cli('volume', 'rm', 'disk1');
  await until('it is told', () => lines.includes('"volume.removed"'));
  child.kill('SIGINT');
  await once(child, 'exit');
  const followed = lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as EventView);
  assert.deepEqual(
    await json('events', '--after', after).then((all) => (all as EventView[]).slice(0, followed.length)),
    followed,
  );

  const wrong = await cli('events', '--after', 'x');
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /--after is a sequence number/);
});

test('a reader that closes the pipe ends what it reads', async () => {
  await start('iohv', files.config);
  const child = spawn(`${ROOT}bin/outrigger`, ['events', '--follow', '--socket', files.socket]);
  let complaints = '';
  child.stderr.on('data', (chunk) => {
    complaints += chunk;
  });
  await once(child.stdout, 'data');
  const ended = once(child, 'exit');
  child.stdout.destroy();
  await cli('volume', 'create', 'disk1', '--size', '1M');
  const [code] = await ended;
  assert.deepEqual([code, complaints], [0, '']);
});

test('top shows rates of the counters, or none when there is no engine', async () => {
  await start('iohv', files.config);
  const { code, stdout, stderr } = await cli('top', '--once', '--interval', '0.1');
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /^I\/O hypervisor +up .*, engine running$/m);
  assert.match(stdout, /^total +0 IOPS/m);
  assert.match(stdout, /^HOST +STATE +RTT +IOPS +IN FLIGHT +DISKS +NICS\nh1 +down +- +0 +0 +0 +0$/m);
  assert.equal((await cli('top', '--interval', '0')).code, 2);
  assert.equal((await outrigger(['top', '--once', '--socket', `${dir.dir}/none.sock`])).code, 3);
});

test('SIGTERM ends the supervisor and its engine', async () => {
  const daemon = await start('iohv', files.config);
  assert.equal(await end(daemon, 'SIGTERM'), 0);
  assert.deepEqual(await engines(files.runDir), []);
});

test('SIGQUIT ends the supervisor and leaves the engine to the next one', async () => {
  const daemon = await start('iohv', files.config);
  const pid = await enginePid();
  assert.equal(await end(daemon, 'SIGQUIT'), 0);
  await start('iohv', files.config);
  assert.equal(await enginePid(), pid);
});

test('engine and standby are shown, and upgraded', async () => {
  await start('iohv', files.config);
  const pid = await enginePid();
  const isReady = async () => (await cli('engine', 'show')).stdout.includes('standby        pid ');
  await until('the standby', isReady);
  assert.match((await cli('engine', 'ls')).stdout, /^PID .*\n\d+ +active +double \w+ +\S+Z\n\d+ +standby +double \w+ /);
  const { code, stdout } = await cli('engine', 'upgrade');
  assert.equal(code, 0);
  assert.match(stdout, new RegExp(`^from +pid ${pid}, double .*\nto +pid \\d+, .*\nblackout +[\\d.]+ ms\n$`, ''));
  assert.notEqual(await enginePid(), pid);
  assert.match((await cli('status')).stdout, /^engine +running, pid \d+, standby \w+, last blackout [\d.]+ ms$/m);
  const metrics = await new Promise<string>((resolve, reject) => {
    get({ socketPath: files.socket, path: '/metrics' }, (response) => {
      response.setEncoding('utf8').on('data', (text: string) => resolve(text));
    }).on('error', reject);
  });
  assert.match(metrics, /^outrigger_engine_last_blackout_seconds 0\.\d+$/m);
  assert.match(metrics, /^outrigger_engine_deaths_total 0$/m);
  assert.equal((await cli('engine', 'uprade')).code, 2);
});

test('kill -9 of the supervisor leaves the engine, and the next one adopts it without disturbing it', async () => {
  const first = await start('iohv', files.config);
  await cli('volume', 'create', 'disk1', '--size', '1M');
  await cli('attach', 'web1', '--host', 'h1', '--disk', 'disk1');
  const pid = await enginePid();
  const before = (await commandsOf(files.runDir)).length;
  await end(first, 'SIGKILL');
  assert.ok(await tellEngine(files.runDir, 'ping'));

  await start('iohv', files.config);
  await cli('volume', 'create', 'disk2', '--size', '1M');
  assert.equal(await enginePid(), pid);
  const commands = (await commandsOf(files.runDir)).slice(before);
  assert.deepEqual(commands, ['keep', 'document.set', 'document.set', 'volume.open']);
});

test('an engine that was started with other settings is replaced', async () => {
  const first = await start('iohv', files.config);
  const pid = await enginePid();
  await end(first, 'SIGKILL');
  writeFileSync(files.config, readFileSync(files.config, 'utf8').replace('lo }', 'lo, mtu: 1500 }'));
  const second = await start('iohv', files.config);
  const why = 'engine.replaced reason="the running engine was started with other settings"';
  await until('the reason is told', () => second.log().includes(why));
  await until('another engine', async () => (await enginePid()) !== pid);
});

test('SIGHUP reads the hosts again, and a wrong file changes nothing', async () => {
  const daemon = await start('iohv', files.config);
  const text = readFileSync(files.config, 'utf8');
  writeFileSync(files.config, `${text}  - { name: h3, key_file: ${dir.file('h3.key', generateKey())} }\n`);
  daemon.child.kill('SIGHUP');
  await until('h3 is known', async () => (await cli('host', 'ls')).stdout.includes('\nh3 '));
  writeFileSync(files.config, 'nonsense: 1\n');
  daemon.child.kill('SIGHUP');
  await until('the complaint', () => daemon.log().includes('config.refused'));
  assert.match((await cli('host', 'ls')).stdout, /^h3 /m);
});

test('a second supervisor on the same directories is refused', async () => {
  await start('iohv', files.config);
  const sameRunDir = await outrigger(['iohv', '--config', files.config, '--engine', ENGINE_DOUBLE]);
  assert.equal(sameRunDir.code, 1);
  assert.match(sameRunDir.stderr, /another supervisor answers at .*iohv\.sock \(socket_in_use\)/);
  const other = dir.file('other.yaml', readFileSync(files.config, 'utf8').replace('/run\n', '/run2\n'));
  const sameState = await outrigger(['iohv', '--config', other, '--engine', ENGINE_DOUBLE]);
  assert.equal(sameState.code, 1);
  assert.match(sameState.stderr, /state\.db is locked by another supervisor \(state_locked\)/);
  assert.equal((await cli('volume', 'ls')).code, 0, 'the first one goes on');
});

test('a host agent shows its disks and their arguments', async () => {
  const config = dir.file(
    'host.yaml',
    `name: h1\nrun_dir: ${dir.dir}/run\nport: { interface: lo }\niohv: { mac: "52:54:00:12:34:56", key_file: ${dir.dir}/h1.key }\n`,
  );
  await start('host', config);
  const device = {
    ...{ id: 1, generation: 1, vm: 'web1', disk: 'root', volume: 'disk1', size: 4096, blockSize: 512 },
    ...{ physicalBlockSize: 512, queues: 2, readOnly: false, discard: false, writeZeroes: false, serial: 'disk1' },
  };
  await emit(files.runDir, { event: 'session.up', data: {} }, 'host');
  const document = JSON.stringify({ version: 1, devices: [device] });
  await emit(files.runDir, { event: 'document', data: { document } }, 'host');
  const path = `${dir.dir}/run/vhost/web1/root.sock`;
  await until('the socket', () => existsSync(path));
  const onHost = (...args: string[]) => outrigger([...args, '--socket', `${dir.dir}/run/host.sock`]);
  const vmArgs = await onHost('vm', 'args', 'web1');
  assert.deepEqual([vmArgs.code, vmArgs.stderr], [0, '']);
  assert.ok(vmArgs.stdout.includes(`path=${path},reconnect=1`));
  const status = JSON.parse((await onHost('status', '--json')).stdout) as HostStatus;
  assert.deepEqual([status.role, status.name, status.session.up], ['host', 'h1', true]);
  const top = await onHost('top', '--once', '--interval', '0.1');
  assert.deepEqual([top.code, top.stderr], [0, '']);
  assert.match(top.stdout, /^HOST +STATE .*\nh1 +up +.* 1 +0$/m);
  assert.match(top.stdout, /^DISK +VOLUME .*\nweb1\/root +disk1 +listening +/m);
  assert.match((await onHost('events')).stdout, /^\S+Z info +document version=1 devices=1$/m);
  assert.match((await onHost('status')).stdout, /^host agent h1 .*\n(.*\n)*session +up$/m);
  const refusedHere = await onHost('volume', 'ls');
  assert.equal(refusedHere.code, 1);
});

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { checkHost, checkIohv, type Probe } from '../../../src/config/checks.js';
import { parseKey, readKeyFile } from '../../../src/config/keys.js';
import { guessRole, loadHostConfig, loadIohvConfig } from '../../../src/config/load.js';
import { ConfigError } from '../../../src/config/problem.js';
import { type HostConfig, iohvSocket, vhostSocketDir } from '../../../src/config/schema.js';
import { suggest } from '../../../src/config/suggest.js';
import { findToken, generateToken, hashToken, readTokens } from '../../../src/config/tokens.js';
import { ROOT, scratch } from './support.js';

const dir = scratch();
after(() => dir.remove());
const KEY = dir.file('good.key', 'ab'.repeat(32));

/** The complaint about a file as an operator reads it, with the scratch folder left out. */
function complaint(load: (file: string) => unknown, text: string): string {
  const file = dir.file('test.yaml', text);
  try {
    load(file);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.message.replaceAll(`${dir.dir}/`, '');
  }
  return 'no complaint';
}

const iohv = (text: string) => complaint(loadIohvConfig, text);
const host = (text: string) => complaint(loadHostConfig, text);

test('a file that says only what is needed gets every default', () => {
  const config = loadIohvConfig(dir.file('small.yaml', 'port: { interface: lo }\n'));
  assert.equal(config.run_dir, '/run/outrigger');
  assert.equal(config.port.ethertype, 0x88b5);
  const thread = { cpu: null, nice: -20, spin_us: 75 };
  assert.deepEqual(config.worker, { count: 1, ...thread, placement: 'least-loaded', rebalance_ms: 1000 });
  assert.equal(iohvSocket(config), '/run/outrigger/iohv.sock');
  const agent = loadHostConfig(
    dir.file('host.yaml', `name: h1\nport: { interface: lo }\niohv: { mac: "52:54:00:12:34:56", key_file: ${KEY} }\n`),
  );
  assert.equal(vhostSocketDir(agent), '/run/outrigger/vhost');
  assert.equal(agent.iohv.integrity_min, 'mac');
  assert.deepEqual(agent.worker, thread);
});

test('several workers have a CPU each, or none', () => {
  const workers = (text: string) => iohv(`port: { interface: lo }\nworker: { ${text} }\n`);
  for (const right of ['count: 16', 'count: 2, cpu: [3, null]', 'cpu: 3', 'cpu: [3]', 'placement: isolate']) {
    assert.equal(workers(right), 'no complaint', right);
  }
  assert.match(workers('count: 2, cpu: 3'), /2:26: worker\.cpu: one CPU, 3, and there are 2 workers\n.*\[0, 1\]/);
  assert.match(workers('count: 2, cpu: [0, 1, 2]'), /worker\.cpu: a list of 3, and there are 2 workers/);
  assert.match(workers('count: 17'), /worker\.count: 17 is out of range/);
  assert.match(workers('cpu: [a]'), /worker\.cpu: .* a list of these, one for each worker/);
  assert.match(workers('placement: least-load'), /did you mean `least-loaded`/);
});

test('the block cache has a size in binary units, within the memory of the machine', () => {
  const cache = (text: string) => iohv(`port: { interface: lo }\ncache: { ${text} }\n`);
  for (const right of ['size: 0', 'size: 64M', 'size: 1.5 MiB', 'size: 1048576', 'policy: arc']) {
    assert.equal(cache(right), 'no complaint', right);
  }
  assert.match(cache('size: lots'), /2:16: cache\.size: "lots" is not a size such as 256M/);
  assert.match(cache('size: -1'), /cache\.size: -1 is not a size/);
  assert.match(cache('size: 4K'), /cache\.size: 4K is too small for a cache\n {2}hint: choose 1M to /);
  assert.match(cache('size: 1P'), /cache\.size: 1P is more than the memory of this machine/);
  assert.match(cache('policy: s3fife'), /did you mean `s3fifo`/);
  assert.match(iohv('port: { interface: lo }\ncache: { size: 1M }\nworker: { count: 2 }\n'), /1M is too small/);
});

test('an unknown key is named with its place and what was probably meant', () => {
  assert.equal(
    iohv('port:\n  interface: lo\n  mtuu: 9000\n'),
    'error: test.yaml:3:3: port.mtuu: unknown key `mtuu`\n  hint: did you mean `mtu`?',
  );
  assert.match(
    iohv('port: { interface: lo }\nfoo: 1\n'),
    /test\.yaml:2:1: foo: unknown key `foo`\n {2}hint: keys allowed here: state_dir, /,
  );
});

test('a value of the wrong type is quoted where it stands', () => {
  assert.match(
    iohv('port:\n  interface: lo\n  mtu: huge\n'),
    /test\.yaml:3:8: port\.mtu: expected an integer, found "huge"\n {2}hint: largest frame/,
  );
  assert.match(iohv('port: 7\n'), /test\.yaml:1:7: port: expected a section of keys, found 7/);
  assert.match(
    iohv('port: { interface: lo }\nworker: { cpu: x }\n'),
    /2:16: worker\.cpu: "x" is not the number of a CPU, null/,
  );
});

test('a port is an AF_PACKET one unless AF_XDP is asked for', () => {
  const mode = (text: string) => loadIohvConfig(dir.file('mode.yaml', `port: { interface: lo${text} }\n`)).port.mode;
  assert.equal(mode(''), 'packet');
  assert.equal(mode(', mode: xdp'), 'xdp');
  assert.match(iohv('port: { interface: lo, mode: dpdk }\n'), /1:30: port\.mode: .*"dpdk"/);
  assert.match(
    iohv('port: { interface: lo, mode: xdp, super_frames: on }\n'),
    /1:49: port\.super_frames: AF_XDP has no super-frames\n.*set `port\.super_frames` to auto or off/,
  );
  assert.match(
    iohv('port: { interface: lo, mode: xdp }\nworker: { count: 2 }\n'),
    /2:18: worker\.count: 2 workers cannot share an interface by AF_XDP\n.*set `worker\.count` to 1/,
  );
});

test('an MTU out of range or above the link is refused', () => {
  assert.match(
    iohv('port: { interface: lo, mtu: 70000 }\n'),
    /1:29: port\.mtu: 70000 is out of range \(must be <= 65535\)/,
  );
  assert.match(
    iohv('port: { interface: lo, mtu: 1400 }\n'),
    /1:29: port\.mtu: 1400 is out of range \(must be 0 or at least 1500\)/,
  );
  const probe: Probe = {
    interfaces: () => ['eth1'],
    linkMtu: () => 1500,
    groupId: () => undefined,
    memoryBytes: () => 2 ** 33,
  };
  const config = loadIohvConfig(dir.file('small.yaml', 'port: { interface: lo, mtu: 9000 }\n'));
  const [check] = checkIohv({ ...config, port: { ...config.port, interface: 'eth1' } }, probe);
  assert.equal(check?.message, "9000 is above the link's MTU, 1500");
  assert.match(check?.hint ?? '', /ip link set eth1 mtu 9000/);
});

test('a network interface that is not there is answered with those that are', () => {
  assert.match(
    iohv('port: { interface: eth99 }\n'),
    /1:20: port\.interface: there is no network interface `eth99`\n.*\blo\b/,
  );
});

test('a bad MAC address is refused, and a multicast one', () => {
  const withMac = (mac: string) =>
    host(`name: h1\nport: { interface: lo }\niohv:\n  mac: "${mac}"\n  key_file: ${KEY}\n`);
  assert.match(withMac('aa:bb'), /4:8: iohv\.mac: "aa:bb" is not a MAC address: six pairs of hexadecimal digits/);
  assert.match(withMac('01:00:5e:00:00:01'), /4:8: iohv\.mac: 01:00:5e:00:00:01 is a multicast address/);
});

test('a missing file is told at the key that names it', () => {
  assert.equal(
    iohv(`port: { interface: lo }\nhosts:\n  - name: h1\n    key_file: ${dir.dir}/none.key\n`),
    'error: test.yaml:4:15: hosts[0].key_file: none.key does not exist\n  hint: make one with: outrigger key generate none.key   (and copy it to the other side)',
  );
});

test('a key that others may read is refused with the command that mends it', () => {
  const open = dir.file('open.key', 'ab'.repeat(32), 0o644);
  assert.match(
    iohv(`port: { interface: lo }\nhosts: [{ name: h1, key_file: ${open} }]\n`),
    /2:31: hosts\[0\]\.key_file: open\.key can be read by others than its owner \(mode 0644\)\n {2}hint: run: chmod 600 open\.key/,
  );
});

test('a file that is no key is refused', () => {
  const short = dir.file('short.key', 'abcd');
  assert.match(iohv(`port: { interface: lo }\nhosts: [{ name: h1, key_file: ${short} }]\n`), /short\.key holds no key/);
});

test('all problems are told at once, in the order of the file', () => {
  const lines = iohv('integrity: mca\nslots: 1000\nhosts:\n  - key_file: x\n')
    .split('\n')
    .filter((line) => line.startsWith('error:'));
  assert.deepEqual(lines, [
    'error: test.yaml:1:1: port.interface: the key `interface` is missing',
    'error: test.yaml:1:12: integrity: "mca" is not one of encrypt, mac, crc',
    'error: test.yaml:2:8: slots: 1000 is out of range (must be <= 256)',
    'error: test.yaml:4:5: hosts[0].name: the key `name` is missing',
    'error: test.yaml:4:15: hosts[0].key_file: "x" is not an absolute path',
  ]);
});

test('what is not YAML is told with its place', () => {
  assert.match(iohv('port:\n  interface: "lo\n'), /^error: test\.yaml:\d+:\d+: not YAML: /);
  assert.match(iohv('slots: 1\nslots: 2\n'), /test\.yaml:2:1: not YAML: Map keys must be unique/);
});

test('a configuration file that is not there is told', () => {
  assert.throws(() => loadIohvConfig('/nonexistent.yaml'), /\/nonexistent\.yaml:1:1: the file does not exist/);
});

test('a host listed twice and a certificate without its key are found', () => {
  const key = dir.file('tls.key', 'not a key');
  const text = iohv(`port: { interface: lo }
hosts:
  - { name: h1, key_file: ${KEY} }
  - { name: h1, key_file: ${KEY} }
api:
  listen: { cert: ${KEY}, key: ${key}, tokens_file: ${dir.file('tokens', 'alice xyz\n')} }
`);
  assert.match(text, /4:13: hosts\[1\]\.name: the host `h1` is listed twice/);
  assert.match(text, /6:\d+: api\.listen\.cert: good\.key and tls\.key are not a certificate and its private key/);
  assert.match(text, /api\.listen\.tokens_file: tokens:1 is not `NAME SHA256`/);
});

test('the group of a socket must exist', () => {
  const probe: Probe = {
    interfaces: () => ['lo'],
    linkMtu: () => undefined,
    groupId: () => undefined,
    memoryBytes: () => 2 ** 33,
  };
  const text = `name: h1\nport: { interface: lo }\niohv: { mac: "52:54:00:12:34:56", key_file: ${KEY} }\n`;
  const config: HostConfig = loadHostConfig(dir.file('host.yaml', text));
  assert.equal(checkHost({ ...config, socket_group: 'qemu' }, probe)[0]?.message, 'there is no group `qemu`');
});

test('the examples have no problem but the files and interfaces of another machine', () => {
  const examples = [
    ['iohv', loadIohvConfig],
    ['host', loadHostConfig],
  ] as const;
  for (const [role, load] of examples) {
    const file = `${ROOT}examples/${role}.yaml`;
    assert.equal(guessRole(file), role);
    try {
      load(file);
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      for (const { path } of error.problems) {
        assert.match(path, /^(port\.interface|hosts\[\d\]\.key_file|iohv\.key_file|socket_group)$/);
      }
    }
  }
});

test('keys are read as hexadecimal or base64, and nothing else', () => {
  const bytes = Buffer.alloc(32, 0xab);
  assert.deepEqual(parseKey(`${bytes.toString('hex')}\n`), bytes);
  assert.deepEqual(parseKey(bytes.toString('base64')), bytes);
  assert.equal(parseKey(Buffer.alloc(31).toString('base64')), undefined);
  assert.equal(parseKey('g'.repeat(64)), undefined);
  assert.deepEqual(readKeyFile(KEY), { ok: true, value: bytes });
});

test('a token is found by its digest only', () => {
  const token = generateToken();
  const file = dir.file(
    'tokens',
    `# people\nalice ${hashToken('x').toString('hex')}\nbob ${hashToken(token).toString('hex')} # ci\n`,
  );
  const entries = readTokens(file);
  assert.ok(entries.ok);
  assert.equal(findToken(entries.value, token), 'bob');
  assert.equal(findToken(entries.value, `${token}x`), undefined);
});

test('a suggestion is made only when it is near', () => {
  assert.equal(suggest('key-file', ['name', 'key_file']), 'key_file');
  assert.equal(suggest('intreface', ['interface', 'mtu']), 'interface');
  assert.equal(suggest('colour', ['interface', 'mtu']), undefined);
});

// Engines as systemd units: the unit files, and the launcher against a stand-in for systemctl that starts what
// the template unit would.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import { EngineKeeper } from '../../../src/supervisor/engine-keeper.js';
import { chooseLauncher, SpawnLauncher, SystemdLauncher, unitOf } from '../../../src/supervisor/engine-launcher.js';
import { doubleSettings, ENGINE_DOUBLE, engines, ROOT, type Scratch, scratch, silent, until } from './support.js';

const UNITS = `${ROOT}systemd`;
const hasAnalyze = existsSync('/usr/bin/systemd-analyze') && process.getuid?.() === 0;

let dir: Scratch;
let subject: EngineKeeper | undefined;
const { PATH = '' } = process.env;

beforeEach(() => {
  dir = scratch();
});

afterEach(async () => {
  await subject?.stop();
  subject = undefined;
  process.env.PATH = PATH;
  dir.remove();
});

test('systemd finds nothing wrong with the units', { skip: !hasAnalyze && 'needs systemd-analyze and root' }, () => {
  for (const name of readdirSync(UNITS)) {
    const installed = readFileSync(`${UNITS}/${name}`, 'utf8').replaceAll('/opt/outrigger/', ROOT);
    writeFileSync(`${dir.dir}/${name}`, installed);
  }
  copyFileSync(`${dir.dir}/outrigger-engine@.service`, `${dir.dir}/outrigger-engine@host-engine.3.service`);
  const files = readdirSync(dir.dir).map((name) => `${dir.dir}/${name}`);
  // The manager that checks them shall not find the control groups of this machine.
  const script = 'mount -t tmpfs none /sys/fs/cgroup && exec systemd-analyze verify --man=no "$@"';
  const output = execFileSync('unshare', ['--mount', 'sh', '-c', script, 'sh', ...files], { stdio: 'pipe' });
  assert.equal(output.toString(), '');
});

test('the template unit starts the socket that its instance names', () => {
  const unit = readFileSync(`${UNITS}/outrigger-engine@.service`, 'utf8');
  assert.equal(unitOf('/run/outrigger/host-engine.3.sock'), 'outrigger-engine@host-engine.3.service');
  assert.match(unit, /^ExecStart=\S+\/bin\/outrigger-engine --socket \/run\/outrigger\/%i\.sock$/m);
});

test('systemd starts the engines where it has started the supervisor, and only there', () => {
  const prefix = '/run/outrigger/host-engine';
  const auto = (filesPrefix = prefix) => chooseLauncher('auto', ENGINE_DOUBLE, filesPrefix);
  assert.ok(auto() instanceof SpawnLauncher);
  process.env.SYSTEMD_EXEC_PID = '1';
  assert.ok(auto() instanceof SpawnLauncher, 'a descendant of a unit is not one');
  process.env.SYSTEMD_EXEC_PID = String(process.pid);
  assert.equal(auto() instanceof SystemdLauncher, existsSync('/run/systemd/system'));
  assert.ok(auto('/elsewhere/host-engine') instanceof SpawnLauncher, 'the template is for the default place');
  process.env.SYSTEMD_EXEC_PID = '';
  assert.ok(chooseLauncher('systemd', ENGINE_DOUBLE, prefix) instanceof SystemdLauncher);
});

/** systemctl that starts the double with the instance's socket in the scratch folder, and notes its arguments. */
function standIn(): void {
  const script = `#!/bin/bash
echo "$*" >>${dir.dir}/calls
if [ "$1" != start ]; then exit 0; fi
if [ -e ${dir.dir}/refuse ]; then echo "Unit $3 not found." >&2; exit 5; fi
instance=\${3#*@}
setsid ${process.execPath} ${ENGINE_DOUBLE} --socket ${dir.dir}/\${instance%.service}.sock </dev/null >/dev/null 2>&1 &
`;
  chmodSync(dir.file('systemctl', script), 0o755);
  process.env.PATH = `${dir.dir}:${PATH}`;
}

function begin(): EngineKeeper {
  const config = {
    role: 'iohv' as const,
    port: { interfaces: ['lo'], mtu: 0, ethertype: 0x88b5 },
    worker: { cpu: null, nice: 0, spinUs: 0 },
    iohv: { integrity: 'mac' as const, slots: 8, bufferBytes: 1 << 20 },
  };
  const launcher = new SystemdLauncher();
  const settings = doubleSettings(dir.dir, config, { launcher, standby: true });
  const keeper = new EngineKeeper({ ...settings, log: silent, async onUp() {}, onEvent() {}, onDown() {} });
  subject = keeper;
  keeper.start();
  return keeper;
}

test('engine and standby are units of their own, and a dead one is replaced', async () => {
  standIn();
  const keeper = begin();
  await until('both', () => keeper.status().standby === 'ready');
  const { pid } = keeper.status();
  process.kill(pid ?? 0, 'SIGKILL');
  await until('both again', () => keeper.status().standby === 'ready' && keeper.status().deaths === 1);
  await keeper.stop();
  await until('none', async () => (await engines(dir.dir)).length === 0);
  const unit = (n: number) => `start --no-block outrigger-engine@iohv-engine.${n}.service`;
  assert.deepEqual(readFileSync(`${dir.dir}/calls`, 'utf8').trim().split('\n'), [1, 2, 3].map(unit));
});

test('what systemctl says is told', async () => {
  standIn();
  dir.file('refuse', '');
  const keeper = begin();
  const told = await until('the error', () => keeper.status().lastError || undefined);
  assert.match(told, /systemctl start outrigger-engine@iohv-engine\.\d+\.service: Unit outrigger-engine@\S+ not found/);
});

// The keeper of engines against processes that speak the engine's protocol: what is active after whoever died
// whenever, and that there is never a second one.
import assert from 'node:assert/strict';
import { existsSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildOf } from '../../../src/engine/identity.js';
import { EngineClient } from '../../../src/supervisor/engine-client.js';
import { EngineKeeper } from '../../../src/supervisor/engine-keeper.js';
import { EngineProcess } from '../../../src/supervisor/engine-process.js';
import type { EngineSettings } from '../../../src/supervisor/engine-settings.js';
import type { EngineConfig, EngineState } from '../../../src/supervisor/protocol.js';
import { EventLog } from '../../../src/telemetry/events.js';
import { createLogger } from '../../../src/telemetry/log.js';
import {
  activeSocket,
  doubleSettings,
  ENGINE_DOUBLE,
  type EngineFound,
  engines,
  type Scratch,
  scratch,
  tellEngine,
  until,
} from './support.js';

const config: EngineConfig = {
  role: 'iohv',
  port: { interfaces: ['lo'], mtu: 0, ethertype: 0x88b5 },
  worker: { cpu: null, nice: 0, spinUs: 0 },
  iohv: { integrity: 'mac', slots: 8, bufferBytes: 1 << 20 },
};

let dir: Scratch;
let events: EventLog;
let keepers: EngineKeeper[];
let downs: number;

beforeEach(() => {
  dir = scratch();
  events = new EventLog();
  keepers = [];
  downs = 0;
});

afterEach(async () => {
  await Promise.all(keepers.map((keeper) => keeper.stop()));
  for (const { pid } of await engines(dir.dir)) {
    process.kill(pid, 'SIGKILL');
  }
  dir.remove();
});

/** A keeper whose owner has nothing to restore. */
function begin(
  changes: Partial<EngineSettings> = {},
  onUp: (client: EngineClient) => Promise<void> = async () => {},
  onEvent = () => {},
): EngineKeeper {
  const keeper: EngineKeeper = new EngineKeeper({
    ...doubleSettings(dir.dir, config, { standby: true, ...changes }),
    log: createLogger({ write() {} }, events),
    onUp: async (client) => {
      await onUp(client);
      keeper.served();
    },
    onEvent,
    onDown: () => {
      downs++;
    },
  });
  keepers.push(keeper);
  keeper.start();
  return keeper;
}

/** kill -9 of the supervisor: nothing is said, the connections end. */
async function vanish(keeper: EngineKeeper): Promise<void> {
  keepers = keepers.filter((other) => other !== keeper);
  await keeper.stop(true);
}

const isUp = (keeper: EngineKeeper) => until('an engine', () => keeper.status().state === 'running');
const isReady = (keeper: EngineKeeper) => until('a standby', () => keeper.status().standby === 'ready');
const standbyOf = (keeper: EngineKeeper) => keeper.status().rows.find(({ state }) => state === 'standby');
const pidOf = (keeper: EngineKeeper) => keeper.status().pid ?? 0;
const kinds = () => events.since().map(({ kind }) => kind);

/** Resolves when another engine than `pid` is active. */
const successorOf = (pid: number, keeper: EngineKeeper) =>
  until('another engine', () => keeper.status().state === 'running' && pidOf(keeper) !== pid);

/** States of all engines that live, the active one's first. */
async function states(): Promise<EngineState[]> {
  return (await engines(dir.dir)).map(({ state }) => state).sort();
}

test('the standby takes the place of an engine that dies, and there is a new standby', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const [active, standby] = [pidOf(keeper), standbyOf(keeper)?.pid];
  process.kill(active, 'SIGKILL');
  await successorOf(active, keeper);
  assert.equal(pidOf(keeper), standby);
  await isReady(keeper);
  assert.deepEqual(await states(), ['active', 'standby']);
  const { deaths, lastBlackoutMs } = keeper.status();
  assert.equal(deaths, 1);
  assert.ok(lastBlackoutMs !== null);
  assert.deepEqual([downs, kinds().filter((kind) => kind === 'engine.serving').length], [1, 1]);
});

test('without a standby a new process takes the place', async () => {
  const keeper = begin({ standby: false });
  await isUp(keeper);
  const active = pidOf(keeper);
  assert.equal(keeper.status().standby, 'off');
  process.kill(active, 'SIGKILL');
  await successorOf(active, keeper);
  assert.deepEqual(await states(), ['active']);
});

test('a standby that dies is replaced, and the active engine is not touched', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const [active, standby] = [pidOf(keeper), standbyOf(keeper)?.pid ?? 0];
  process.kill(standby, 'SIGKILL');
  await until('another standby', () => (standbyOf(keeper)?.pid ?? standby) !== standby);
  assert.equal(pidOf(keeper), active);
  assert.equal(keeper.status().deaths, 0);
});

test('engine and standby that die together are replaced', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const [active, standby] = [pidOf(keeper), standbyOf(keeper)?.pid ?? 0];
  process.kill(standby, 'SIGKILL');
  process.kill(active, 'SIGKILL');
  await successorOf(active, keeper);
  await isReady(keeper);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('a process that cannot start is told with its last words, and tried again', async () => {
  writeFileSync(`${dir.dir}/unfit`, '');
  const keeper = begin();
  await until('the failure', () => keeper.status().state === 'waiting');
  assert.match(keeper.status().lastError, /the engine ended at its start \(exit code 1\): .*unfit for service/);
  dir.removeFile('unfit');
  await isUp(keeper);
});

test('the next supervisor adopts the engine and its standby', async () => {
  const first = begin();
  await isUp(first);
  await isReady(first);
  const [active, standby] = [pidOf(first), standbyOf(first)?.pid];
  await vanish(first);
  const second = begin();
  await isUp(second);
  await isReady(second);
  assert.deepEqual([pidOf(second), standbyOf(second)?.pid], [active, standby]);
});

test('a standby of another build than the present one is ended by the next supervisor', async () => {
  const first = begin();
  await isUp(first);
  await isReady(first);
  const [active, standby] = [pidOf(first), standbyOf(first)?.pid];
  await vanish(first);
  writeFileSync(`${dir.dir}/build`, 'newer');
  const second = begin();
  await isUp(second);
  await until('a standby of the present build', () => standbyOf(second)?.build === 'newer');
  assert.equal(pidOf(second), active);
  assert.notEqual(standbyOf(second)?.pid, standby);
  assert.deepEqual(
    second.status().rows.map(({ isPresent }) => isPresent),
    [false, true],
  );
});

test('an engine that died while no supervisor was there is replaced by its standby', async () => {
  const first = begin();
  await isUp(first);
  await isReady(first);
  const [active, standby] = [pidOf(first), standbyOf(first)?.pid];
  await vanish(first);
  process.kill(active, 'SIGKILL');
  const second = begin();
  await isUp(second);
  assert.equal(pidOf(second), standby);
  await isReady(second);
  assert.deepEqual(await states(), ['active', 'standby'], 'and the dead socket hinders nobody');
});

test('an engine with other settings is replaced when it has told what it has', async () => {
  const first = begin();
  await isUp(first);
  const active = pidOf(first);
  await vanish(first);
  const second = begin({ config: { ...config, port: { ...config.port, mtu: 1500 } } });
  await successorOf(active, second);
  await until('the end of the other', async () => (await engines(dir.dir)).every(({ pid }) => pid !== active));
  assert.ok(kinds().includes('engine.replaced'));
});

const twoOf = (found: EngineFound[]) => {
  const [active, standby] = [found.find((e) => e.state === 'active'), found.find((e) => e.state === 'standby')];
  assert.ok(active && standby);
  return { active, standby };
};

/** The supervisor vanishes in the middle of an upgrade: `step` is what it had done. */
async function interruptedUpgrade(step: (active: EngineProcess, standby: EngineProcess) => Promise<unknown>) {
  const first = begin();
  await isUp(first);
  await isReady(first);
  const { active, standby } = twoOf(await engines(dir.dir));
  await vanish(first);
  const [old, fresh] = await Promise.all([EngineProcess.claim(active.socket), EngineProcess.claim(standby.socket)]);
  assert.ok(old && fresh);
  await step(old, fresh);
  old.client.close();
  fresh.client.close();
  const second = begin();
  await isUp(second);
  await isReady(second);
  return { second, active: active.pid, standby: standby.pid };
}

test('an upgrade that was interrupted after the drain goes on with the standby', async () => {
  const { second, active, standby } = await interruptedUpgrade((old) => old.client.request('drain', { ms: 0 }));
  assert.equal(pidOf(second), standby);
  assert.deepEqual(await states(), ['active', 'standby']);
  assert.ok((await engines(dir.dir)).every(({ pid }) => pid !== active));
});

test('an upgrade that was interrupted after the stop goes on with the standby', async () => {
  const { second, standby } = await interruptedUpgrade((old) => old.end(() => {}));
  assert.equal(pidOf(second), standby);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('an upgrade that was interrupted after the activation is over', async () => {
  const { second, standby } = await interruptedUpgrade(async (old, fresh) => {
    await old.end(() => {});
    await fresh.activate(config);
  });
  assert.equal(pidOf(second), standby);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('of two active engines, which cannot be, the older one is ended', async () => {
  const { second, active, standby } = await interruptedUpgrade((_old, fresh) => fresh.activate(config));
  assert.equal(pidOf(second), standby);
  await until('the end of the older', async () => (await engines(dir.dir)).every(({ pid }) => pid !== active));
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('what a vanished supervisor had sent is not done once the next one has the engine', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const { active } = twoOf(await engines(dir.dir));
  await vanish(keeper);
  const dead = await EngineProcess.claim(active.socket);
  const next = await EngineClient.connect(active.socket);
  assert.ok(dead);
  await next.request('ping', {}); // it has been accepted
  process.kill(active.pid, 'SIGSTOP'); // so that both of what follows is there when it reads again, in this order
  const claimed = next.request('claim', {});
  const late = dead.client.request('drain', { ms: 0 }).then(
    () => 'done',
    () => 'not done',
  );
  process.kill(active.pid, 'SIGCONT');
  assert.deepEqual([(await claimed).state, await late], ['active', 'not done']);
  assert.equal((await next.request('ping', {})).state, 'active', 'the answer to the claim holds');
  next.close();
});

test('a supervisor whose engine another one claims keeps its hands off', async () => {
  let isSuperseded = false;
  const first = begin({
    onSuperseded: () => {
      isSuperseded = true;
    },
  });
  await isUp(first);
  await isReady(first);
  const active = pidOf(first);
  const second = begin();
  await isUp(second);
  await until('the first one ends', () => isSuperseded);
  await until('the first one is over', () => first.status().state === 'stopped');
  assert.equal(pidOf(second), active);
  assert.deepEqual((await states()).filter((state) => state === 'active').length, 1);
});

test('an engine that does not answer its new supervisor is killed', async () => {
  const first = begin({ standby: false });
  await isUp(first);
  const active = pidOf(first);
  await vanish(first);
  process.kill(active, 'SIGSTOP');
  const second = begin({ standby: false });
  await isUp(second);
  assert.notEqual(pidOf(second), active);
  assert.deepEqual(await states(), ['active']);
});

test('an upgrade puts an engine of the present build in place', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const [active, standby] = [pidOf(keeper), standbyOf(keeper)?.pid];
  writeFileSync(`${dir.dir}/build`, 'newer');
  const { from, to, blackoutMs } = await keeper.upgrade();
  assert.deepEqual([from.pid, from.build, from.isPresent], [active, buildOf(ENGINE_DOUBLE), false]);
  assert.deepEqual([to.pid, to.build, to.isPresent], [pidOf(keeper), 'newer', true]);
  assert.ok(blackoutMs !== null && to.pid !== standby);
  await isReady(keeper);
  assert.equal(standbyOf(keeper)?.build, 'newer');
  assert.equal(keeper.status().deaths, 0);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('whoever stops in the middle of an upgrade leaves no engine', async () => {
  writeFileSync(`${dir.dir}/slow-drain`, '');
  for (const ms of [0, 50, 150, 250, 320, 400]) {
    const keeper = begin();
    await until('the engine and its standby', () => {
      const { state, standby } = keeper.status();
      return state === 'running' && standby === 'ready';
    });
    const upgrade = keeper.upgrade().catch(() => {});
    await sleep(ms);
    await keeper.stop();
    await upgrade;
    assert.deepEqual(await engines(dir.dir), [], `stopped after ${ms} ms`);
  }
});

test('an upgrade is over when the new engine serves, whatever the old one does until it ends', async () => {
  writeFileSync(`${dir.dir}/slow-drain`, '');
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const old = keeper.status().pid;
  const look = setInterval(() => {
    if (keeper.status().pid === old) {
      keeper.served();
    }
  }, 10).unref();
  const upgrade = keeper.upgrade();
  await until('the new engine', () => keeper.status().state === 'running' && keeper.status().pid !== old);
  clearInterval(look);
  keeper.served();
  const { to, blackoutMs } = await upgrade;
  assert.equal(to.pid, keeper.status().pid);
  assert.ok((blackoutMs ?? 0) > 250, `${blackoutMs} ms`);
});

test('an upgrade to the build that runs uses the standby', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const standby = standbyOf(keeper)?.pid;
  assert.equal((await keeper.upgrade()).to.pid, standby);
});

test('an engine that cannot be drained is replaced nevertheless', async () => {
  const keeper = begin();
  await isUp(keeper);
  writeFileSync(`${dir.dir}/undrained`, '');
  const active = pidOf(keeper);
  assert.notEqual((await keeper.upgrade()).to.pid, active);
  assert.ok(kinds().includes('engine.undrained'));
});

test('an upgrade to a build that does not start leaves the running engine alone', async () => {
  const keeper = begin({ standby: false });
  await isUp(keeper);
  const active = pidOf(keeper);
  writeFileSync(`${dir.dir}/unfit`, '');
  await assert.rejects(keeper.upgrade(), {
    code: 'engine_upgrade_failed',
    message: /left alone: .*ended at its start .*unfit for service/,
  });
  assert.equal(pidOf(keeper), active);
  assert.equal(keeper.status().state, 'running');
});

test('an upgrade to a build that cannot be activated is told, and there is an engine in the end', async () => {
  const keeper = begin();
  await isUp(keeper);
  await isReady(keeper);
  const [active, standby] = [pidOf(keeper), standbyOf(keeper)?.pid];
  dir.file('unusable', '');
  const upgrade = assert.rejects(keeper.upgrade(), { code: 'engine_upgrade_failed', message: /did not take over/ });
  await until('the failure', () => kinds().includes('engine.start-failed'));
  dir.removeFile('unusable');
  await upgrade;
  await isUp(keeper);
  assert.ok(pidOf(keeper) !== active && pidOf(keeper) !== standby);
});

test('an upgrade to settings that cannot be prepared leaves the running engine alone', async () => {
  const first = begin({ standby: false });
  await isUp(first);
  const active = pidOf(first);
  await vanish(first);
  const second = begin({ standby: false, config: { ...config, port: { ...config.port, interfaces: ['none'] } } });
  await until('the refusal', () => kinds().includes('engine.start-failed'));
  assert.deepEqual([second.status().state, pidOf(second)], ['running', active]);
  assert.deepEqual(await states(), ['active']);
});

test('a standby that an interrupted upgrade had prepared is not kept', async () => {
  const { second, standby } = await interruptedUpgrade((_old, fresh) => fresh.prepare(config));
  assert.notEqual(standbyOf(second)?.pid, standby);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('one upgrade at a time, and none without an engine', async () => {
  const keeper = begin();
  await assert.rejects(keeper.upgrade(), { code: 'engine_unavailable' });
  await isUp(keeper);
  const first = keeper.upgrade();
  await assert.rejects(keeper.upgrade(), { code: 'engine_busy' });
  await first;
});

test('an engine that cannot say what it has is asked again', async () => {
  let tries = 0;
  const keeper = begin({ standby: false }, async () => {
    tries++;
    if (tries === 1) {
      throw new Error('no');
    }
  });
  await isUp(keeper);
  assert.deepEqual([tries, keeper.status().deaths, await states()], [2, 0, ['active']]);
});

test('an early event that its owner fails on does not bring about a second engine', async () => {
  let tries = 0;
  let failures = 0;
  const keeper = begin(
    {},
    async (client) => {
      tries++;
      if (tries === 1) {
        await tellEngine(dir.dir, 'test.emit', { event: 'host.up', data: { host: 'h1' } });
        await client.request('ping', {}); // its answer comes behind the event
      }
    },
    () => {
      failures++;
      throw new Error('the disk is full');
    },
  );
  await isUp(keeper);
  await isReady(keeper);
  assert.deepEqual([tries, failures, keeper.status().deaths], [2, 1, 0]);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('an owner that fails on an event asks the engine again', async () => {
  let tries = 0;
  const keeper = begin(
    {},
    async () => {
      tries++;
    },
    () => {
      throw new Error('the disk is full');
    },
  );
  await isUp(keeper);
  await isReady(keeper);
  await tellEngine(dir.dir, 'test.emit', { event: 'host.up', data: { host: 'h1' } });
  await until('the engine is asked again', () => tries === 2);
  await isUp(keeper);
  assert.equal(keeper.status().deaths, 0);
  assert.deepEqual(await states(), ['active', 'standby']);
});

test('while nobody can tell whether the engine lives, no other one is activated', async () => {
  const aside = `${dir.dir}/aside`;
  let tries = 0;
  let socket = '';
  const keeper = begin({ standby: false }, async () => {
    tries++;
    if (tries === 1) {
      socket = await activeSocket(dir.dir);
      renameSync(socket, aside);
      symlinkSync(socket, socket); // connecting fails, and not because nobody listens
      throw new Error('no');
    }
  });
  await until('the first try', () => tries === 1);
  await sleep(1000);
  assert.deepEqual(await states(), []);
  renameSync(aside, socket);
  await isUp(keeper);
  assert.deepEqual([tries, keeper.status().deaths, await states()], [2, 0, ['active']]);
});

test('a supervisor that cannot tell what it finds activates nothing', async () => {
  const aside = `${dir.dir}/aside`;
  const first = begin({ standby: false });
  await isUp(first);
  const [pid, socket] = [pidOf(first), await activeSocket(dir.dir)];
  await vanish(first);
  renameSync(socket, aside);
  symlinkSync(socket, socket);
  const second = begin({ standby: false });
  await sleep(1000);
  assert.deepEqual(await states(), []);
  renameSync(aside, socket);
  await isUp(second);
  assert.equal(pidOf(second), pid);
});

test('a supervisor that ends takes the engines with it, or leaves them', async () => {
  const first = begin();
  await isUp(first);
  await isReady(first);
  await vanish(first);
  assert.deepEqual(await states(), ['active', 'standby']);
  const second = begin();
  await isUp(second);
  await second.stop();
  await until('all have ended', async () => (await states()).length === 0);
});

test('a supervisor that ends before it knows what it finds takes the engine with it, or leaves it', async () => {
  const first = begin({ standby: false });
  await isUp(first);
  await vanish(first);
  await begin().stop(true);
  assert.deepEqual(await states(), ['active']);
  await begin().stop();
  assert.deepEqual(await states(), []);
});

test('an I/O hypervisor that ends waits for an engine that takes long to write out what it has', async () => {
  const keeper = begin({ standby: false });
  await isUp(keeper);
  writeFileSync(`${dir.dir}/slow-stop`, '11000'); // longer than any other engine may take
  await keeper.stop();
  assert.ok(existsSync(`${dir.dir}/stopped`));
  assert.deepEqual(
    kinds().filter((kind) => kind.startsWith('engine.stop-')),
    ['engine.stop-slow'],
  );
});

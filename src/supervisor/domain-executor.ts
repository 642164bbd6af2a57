// Takes one step of a protection domain: see iohv-executor.ts, which calls it, and domain-planner.ts for the order.
import type { Logger } from '../telemetry/log.js';
import type { DomainStep } from './domain-planner.js';
import { type EngineCaller, EngineCommandError, untilGone } from './engine-client.js';
import type { IohvActual } from './iohv-planner.js';
import type { Domain } from './model.js';
import type { DomainRow, VolumeDomain } from './protocol.js';
import type { Store } from './store.js';
import { makeDirectoryOf, removeVolumeFile } from './volume-files.js';

/** Commands that wait for a disk end when they end; a hung engine is the keeper's business. */
const NO_TIMEOUT = 0;

export interface DomainContext {
  engine: EngineCaller;
  store: Store;
  actual: IohvActual;
  /** Of the low-latency socket of a domain. */
  socketOf(domain: Domain): string;
  log: Logger;
}

export async function executeDomain(step: DomainStep, context: DomainContext): Promise<void> {
  const { engine, store, actual } = context;
  switch (step.do) {
    case 'domain.create': {
      const { id, journal } = step.domain;
      await makeDirectoryOf(journal.path);
      await engine.request('journal.create', { path: journal.path, bytes: journal.bytes }, NO_TIMEOUT);
      if (!actual.domains.has(id)) {
        await openDomain(step, context);
      }
      store.domains.setReady(id);
      return;
    }
    case 'domain.open':
      return openDomain(step, context);
    case 'domain.set': {
      const { id, overflow, commitTimeoutMs } = step;
      await engine.request('domain.set', { id, overflow, commitTimeoutMs });
      noteDomain(actual, id, { overflow, commitTimeoutMs });
      return;
    }
    case 'domain.fence':
      return fence(step.domain, context);
    case 'domain.remove':
      return removeDomain(step.domain, context);
    case 'domain.close':
      return closeDomain(step.id, false, context);
    case 'volume.protect': {
      const { name, domain, generation } = step;
      await engine.request('volume.protect', { name, domain, generation }, NO_TIMEOUT);
      noteProtected(actual, name, domain, generation);
      return;
    }
    case 'volume.release':
      await releaseVolume(step.name, step.generation, context);
      store.domains.released(step.name);
      return;
    default:
      return step satisfies never;
  }
}

async function openDomain(
  { domain, worker }: Extract<DomainStep, { do: 'domain.create' | 'domain.open' }>,
  { engine, actual, socketOf, log }: DomainContext,
): Promise<void> {
  const { id, name, bytes, journal, overflow, commitTimeoutMs } = domain;
  const args = { id, name, bytes, overflow, commitTimeoutMs, worker };
  const files = { journal: journal.path, journalId: journal.id, socket: socketOf(domain) };
  const row = await engine.request('domain.open', { ...args, ...files }, NO_TIMEOUT);
  actual.domains.set(id, row);
  const { state, committed } = row;
  log.info('domain.opened', { domain: name, state, generation: row.generation, committed });
}

/**
 * Asks first what the engine has: its predecessor may have died after any of these steps. An abort is possible only
 * behind a fence of this life of the engine; where something else came in between there is another fence first.
 */
async function fence(domain: Domain, { engine, store, actual, log }: DomainContext): Promise<void> {
  const { id, name, generation, intent } = domain;
  const row = (await engine.request('domain.list', {})).find((other) => other.id === id);
  if (row === undefined) {
    throw new Error(`the domain ${name} is not open`);
  }
  let { committed } = row;
  const isBehind = row.generation < generation;
  if (isBehind) {
    const command = row.state === 'rewind' && intent !== 'keep' ? 'domain.reset' : 'domain.fence';
    ({ committed } = await engine.request(command, { id, generation }, NO_TIMEOUT));
    const state = command === 'domain.reset' ? 'running' : row.state;
    noteDomain(actual, id, { ...row, state, generation, committed });
    log.info('domain.fenced', { domain: name, generation, committed });
  }
  if (intent === 'abort') {
    try {
      await engine.request('domain.abort', { id }, NO_TIMEOUT);
    } catch (error) {
      if (isBehind || !(error instanceof EngineCommandError && error.code === 'EBUSY')) {
        throw error;
      }
      store.domains.raiseAgain(id, intent);
      return;
    }
    log.info('domain.aborted', { domain: name, committed });
  }
  store.domains.settle(id, generation, committed);
}

/**
 * What is held is committed and applied first. Then the store lets the volumes and VMs go, before anything is forgotten:
 * whoever goes on after a crash must not take the domain for one that has lost what it held.
 */
async function removeDomain(domain: Domain, context: DomainContext): Promise<void> {
  const { engine, store, actual, log } = context;
  const { id, name, generation, journal } = domain;
  await Promise.all(domain.volumes.map(({ volume }) => releaseVolume(volume, generation, context)));
  if (actual.domains.get(id)?.state === 'running') {
    const { epoch } = await engine.request('domain.cut', { id, generation }, NO_TIMEOUT);
    await engine.request('domain.commit', { id, generation, epoch }, NO_TIMEOUT); // packets that are still held
  }
  for (const port of [...actual.nics.values()].filter((nic) => nic.domain?.id === id)) {
    await untilGone(engine.request('nic.set', { id: port.id, domain: null }, NO_TIMEOUT));
    actual.nics.set(port.id, { ...port, domain: null });
  }
  store.domains.letGo(id);
  await closeDomain(id, true, context);
  await removeVolumeFile(journal.path);
  store.domains.remove(id);
  log.info('domain.gone', { domain: name });
}

async function closeDomain(id: number, forget: boolean, { engine, actual }: DomainContext): Promise<void> {
  await untilGone(engine.request('domain.close', { id, forget }, NO_TIMEOUT));
  actual.domains.delete(id);
  for (const { name, domain } of [...actual.volumes.values()]) {
    if (domain?.id === id) {
      actual.volumes.delete(name);
    }
  }
}

async function releaseVolume(name: string, generation: number, { engine, actual }: DomainContext): Promise<void> {
  if (actual.volumes.get(name)?.domain !== undefined) {
    await engine.request('volume.protect', { name, domain: null, generation }, NO_TIMEOUT);
    noteProtected(actual, name, null, generation);
  }
}

function noteDomain(actual: IohvActual, id: number, change: Partial<DomainRow>): void {
  const row = actual.domains.get(id);
  if (row !== undefined) {
    actual.domains.set(id, { ...row, ...change });
  }
}

/** Its exports go with it. */
function noteProtected(actual: IohvActual, name: string, domain: VolumeDomain | null, generation: number): void {
  const row = actual.volumes.get(name);
  if (row !== undefined) {
    const { domain: _, ...bare } = row;
    actual.volumes.set(name, domain === null ? bare : { ...bare, domain });
  }
  for (const exported of [...actual.exports.values()].filter(({ volume }) => volume === name)) {
    const { domainGeneration: _, standby: __, ...bare } = exported;
    actual.exports.set(exported.id, domain === null ? bare : { ...bare, domainGeneration: generation });
  }
}

// Takes one step of the I/O hypervisor's plan: tells the engine, and when it has done it, notes it in the
// actual state (and in the store, what must outlive us).
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../telemetry/log.js';
import { executeDomain } from './domain-executor.js';
import { type EngineCaller, EngineCommandError, untilGone } from './engine-client.js';
import { orIfUnknown } from './engine-rows.js';
import type { IohvActual, IohvStep } from './iohv-planner.js';
import type { Domain, Layer, LayerMerge, Nic, Volume } from './model.js';
import type { NetSetup } from './net-setup.js';
import { argsOf, type NicStep, NO_FEATURES } from './nic-planner.js';
import type { EngineCommands, LayerArgs, NicArgs } from './protocol.js';
import type { Store } from './store.js';
import { removeVolumeFile, unfinishedPath } from './volume-files.js';

type VolumeOpenArgs = EngineCommands['volume.open']['args'];

/** Of a merge of layers, at once. */
const MERGE_BYTES = 32 << 20;

/** Commands that wait for a disk end when they end; a hung engine is the keeper's business. */
const NO_TIMEOUT = 0;

export async function executeIohv(
  step: IohvStep,
  engine: EngineCaller,
  store: Store,
  actual: IohvActual,
  net: NetSetup,
  log: Logger,
  socketOf: (domain: Domain) => string,
): Promise<void> {
  switch (step.do) {
    case 'volume.open': {
      const { name, kind, size, blockSize, readOnly, geometry, fault, cache } = step.volume;
      const flushFailed = fault !== null;
      const files = filesOf(step.volume);
      const { worker, placement, domain } = step;
      const args = {
        ...{ name, kind, readOnly, flushFailed, worker, placement },
        ...(domain && { domain }),
        ...(files ? { ...files, cache } : { size, blockSize }),
      };
      const found = await engine.request('volume.open', args, NO_TIMEOUT);
      if (JSON.stringify(geometry) !== JSON.stringify(found)) {
        store.setGeometry(name, found);
      }
      const fresh = { worker, placement, readOnly, flushFailed, errors: 0, lastError: null, ...(domain && { domain }) };
      const { path = null, content } = files ?? {};
      const cached = actual.cacheBytes > 0 && kind === 'file' ? { cache } : {};
      const named = content === undefined ? {} : { content, layers: step.volume.layers.map(argsOfLayer) };
      actual.volumes.set(name, { name, kind, path, ...named, ...cached, ...fresh, ...found });
      return;
    }
    case 'volume.cut': {
      const { name, head } = step;
      const { path, content } = head;
      try {
        await engine.request('volume.cut', { name, path, content }, NO_TIMEOUT);
      } catch (error) {
        if (error instanceof EngineCommandError) {
          store.layers.undoCut(name, content);
        }
        throw error;
      }
      const row = actual.volumes.get(name);
      if (row !== undefined) {
        const { layers } = row;
        actual.volumes.set(name, { ...row, path, content, ...(layers && { layers: [argsOfLayer(head), ...layers] }) });
      }
      return;
    }
    case 'volume.rebase': {
      const { name } = step;
      const below = step.layers.map(argsOfLayer);
      await engine.request('volume.rebase', { name, layers: below }, NO_TIMEOUT);
      const row = actual.volumes.get(name);
      if (row?.layers !== undefined) {
        actual.volumes.set(name, { ...row, layers: [...row.layers.slice(0, 1), ...below] });
      }
      return;
    }
    case 'layer.merge':
      return mergeLayers(step.merge, engine, store, log);
    case 'volume.move': {
      const { name, from, to, reason } = step;
      const { ms, placement } = await engine.request('volume.move', { name, to }, NO_TIMEOUT);
      noteMoved(actual, name, to, placement);
      log.info('volume.moved', { volume: name, from, to, reason, ms: Math.round(ms * 10) / 10 });
      return;
    }
    case 'volume.cache': {
      const { name, cache } = step;
      await engine.request('volume.cache', { name, ...cache }, NO_TIMEOUT);
      const row = actual.volumes.get(name);
      if (row !== undefined) {
        actual.volumes.set(name, { ...row, cache });
      }
      return;
    }
    case 'cache.set':
      await engine.request('cache.set', { bytes: step.bytes }, NO_TIMEOUT);
      actual.cacheBytes = step.bytes;
      return;
    case 'volume.close':
      await untilGone(engine.request('volume.close', { name: step.name }, NO_TIMEOUT));
      actual.volumes.delete(step.name);
      return;
    case 'volume.erase': {
      const { name } = step.volume;
      await untilGone(engine.request('volume.close', { name }, NO_TIMEOUT)); // a predecessor may have begun to open it
      const layers = store.layers.neededBy(name);
      await erase(layers, engine);
      store.removeVolume(name, layers);
      return;
    }
    case 'layer.erase':
      await erase([step.layer], engine);
      store.layers.forget(step.layer.content);
      return;
    case 'host.add': {
      const { name, keyBase64, keyId } = step.host;
      const { exports, nics } = step;
      await Promise.allSettled(
        store
          .desired()
          .nics.filter(isAmong(nics))
          .map((nic) => net.revive(nic)),
      );
      const { openNics = [] } = await engine.request('host.add', { name, keyBase64, keyId, exports, nics }, NO_TIMEOUT);
      actual.hosts.set(name, keyId);
      for (const args of nics.filter(({ id }) => openNics.includes(id))) {
        actual.nics.set(args.id, { ...args, host: name, features: NO_FEATURES, filter: null, gone: false });
      }
      for (const row of step.exports) {
        actual.exports.set(row.id, { ...row, host: name });
      }
      return;
    }
    case 'host.remove':
      await untilGone(engine.request('host.remove', { name: step.name }, NO_TIMEOUT));
      actual.hosts.delete(step.name);
      actual.documents.delete(step.name);
      return;
    case 'export.add':
      await engine.request('export.add', step.row, NO_TIMEOUT);
      actual.exports.set(step.row.id, step.row);
      return;
    case 'export.set': {
      const { id, weight } = step;
      await engine.request('export.set', { id, weight }, NO_TIMEOUT);
      const row = actual.exports.get(id);
      if (row !== undefined) {
        actual.exports.set(id, { ...row, weight });
      }
      return;
    }
    case 'export.remove':
      await untilGone(engine.request('export.remove', { id: step.id }, NO_TIMEOUT));
      actual.exports.delete(step.id);
      return;
    case 'document.set': {
      const { host, version, devices } = step;
      await engine.request('document.set', { host, document: JSON.stringify({ version, devices }) }, NO_TIMEOUT);
      actual.documents.set(host, devices);
      return;
    }
    case 'nic.setup':
    case 'nic.open':
    case 'nic.set':
    case 'nic.close':
    case 'nic.erase':
      return executeNic(step, engine, store, actual, net);
    case 'domain.create':
    case 'domain.open':
    case 'domain.set':
    case 'domain.fence':
    case 'domain.remove':
    case 'domain.close':
    case 'volume.protect':
    case 'volume.release':
      return executeDomain(step, { engine, store, actual, socketOf, log });
    default:
      return step satisfies never;
  }
}

/** What killed engines had not written out of them, and the files that are ours. */
async function erase(layers: readonly Layer[], engine: EngineCaller): Promise<void> {
  for (const { content } of layers) {
    await orIfUnknown(engine.request('keep.forget', { content }), { bytes: 0 });
  }
  for (const { path, raw } of layers.filter(({ adopted }) => !adopted)) {
    await removeVolumeFile(path);
    if (!raw) {
      await removeVolumeFile(unfinishedPath(path));
    }
  }
}

/** What the engine is told of the files of a volume; undefined: it has none. */
function filesOf({ layers }: Volume): Pick<VolumeOpenArgs, 'path' | 'content' | 'layers'> | undefined {
  const [head, ...below] = layers;
  if (head === undefined) {
    return undefined;
  }
  const { path, content } = head;
  return { path, content, ...(below.length > 0 && { layers: layers.map(argsOfLayer) }) };
}

const argsOfLayer = ({ path, content, raw, header }: Layer): LayerArgs => ({
  ...{ path, content },
  ...(raw && { raw }),
  ...(header !== undefined && { header }),
});

/** A part of it, and then a pause as long: guests want the disk, too. */
async function mergeLayers(merge: LayerMerge, engine: EngineCaller, store: Store, log: Logger): Promise<void> {
  const begunAt = performance.now();
  const { upper, lower, next } = merge;
  const args = { from: argsOfLayer(upper), into: argsOfLayer(lower), next, bytes: MERGE_BYTES };
  const part = await engine.request('layer.merge', args, NO_TIMEOUT);
  if (!part.complete) {
    store.layers.noteMerge(merge, part.next);
    await sleep(performance.now() - begunAt, undefined, { ref: false });
  } else if (store.layers.merged(merge)) {
    log.info('layers.merged', { path: lower.path, removed: upper.path });
  }
}

export function noteMoved({ volumes }: IohvActual, name: string, worker: number, placement: number): void {
  const row = volumes.get(name);
  if (row !== undefined) {
    volumes.set(name, { ...row, worker, placement });
  }
}

const isAmong = (nics: readonly NicArgs[]) => (nic: Nic) => nics.some(({ name }) => name === nic.name);

async function executeNic(
  step: NicStep,
  engine: EngineCaller,
  store: Store,
  actual: IohvActual,
  net: NetSetup,
): Promise<void> {
  switch (step.do) {
    case 'nic.setup':
      await net.ensure(step.nic);
      actual.readyNics.add(step.nic.name);
      return;
    case 'nic.open': {
      const { nic, port } = step;
      await net.revive(nic);
      try {
        await engine.request('nic.open', { ...argsOf(port), host: port.host }, NO_TIMEOUT);
      } catch (error) {
        await net.ensure(nic); // says more, or mends what the next try needs
        throw error;
      }
      actual.nics.set(port.id, port);
      return;
    }
    case 'nic.set': {
      const { id, change } = step;
      await engine.request('nic.set', { id, ...change }, NO_TIMEOUT);
      const port = actual.nics.get(id);
      if (port !== undefined) {
        actual.nics.set(id, { ...port, ...change });
      }
      return;
    }
    case 'nic.close':
      await untilGone(engine.request('nic.close', { id: step.id }, NO_TIMEOUT));
      actual.nics.delete(step.id);
      return;
    case 'nic.erase':
      await net.remove(step.nic);
      actual.readyNics.delete(step.nic.name);
      store.removeNic(step.nic.name);
      return;
    default:
      return step satisfies never;
  }
}

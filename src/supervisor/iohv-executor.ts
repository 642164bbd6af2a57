// Takes one step of the I/O hypervisor's plan: tells the engine, and when it has done it, notes it in the
// actual state (and in the store, what must outlive us).
import { type EngineCaller, untilGone } from './engine-client.js';
import type { IohvActual, IohvStep } from './iohv-planner.js';
import type { Store } from './store.js';
import { removeVolumeFile } from './volume-files.js';

/** Commands that wait for a disk end when they end; a hung engine is the keeper's business. */
const NO_TIMEOUT = 0;

export async function executeIohv(
  step: IohvStep,
  engine: EngineCaller,
  store: Store,
  actual: IohvActual,
): Promise<void> {
  switch (step.do) {
    case 'volume.open': {
      const { name, kind, path, size, blockSize, readOnly, geometry, fault } = step.volume;
      const flushFailed = fault !== null;
      const args = { name, kind, readOnly, flushFailed, ...(path === null ? { size, blockSize } : { path }) };
      const found = await engine.request('volume.open', args, NO_TIMEOUT);
      if (JSON.stringify(geometry) !== JSON.stringify(found)) {
        store.setGeometry(name, found);
      }
      actual.volumes.set(name, { name, kind, path, readOnly, flushFailed, errors: 0, lastError: null, ...found });
      return;
    }
    case 'volume.close':
      await untilGone(engine.request('volume.close', { name: step.name }, NO_TIMEOUT));
      actual.volumes.delete(step.name);
      return;
    case 'volume.erase': {
      const { name, path, adopted } = step.volume;
      if (path !== null && !adopted) {
        await removeVolumeFile(path);
      }
      store.removeVolume(name);
      return;
    }
    case 'host.add': {
      const { name, keyBase64, keyId } = step.host;
      await engine.request('host.add', { name, keyBase64, keyId, exports: step.exports }, NO_TIMEOUT);
      actual.hosts.set(name, keyId);
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
    default:
      return step satisfies never;
  }
}

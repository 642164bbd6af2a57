// Snapshots of volumes, and clones: what an operator can do with layers.
//
// A snapshot is a cut: the file that a volume writes to is sealed, and an empty overlay becomes its head. The order
// makes every crash harmless: the file is made, durably; the store says that it is the head; then the engine puts it
// on top of what it has open. An engine that starts in between opens the new head over the old one, whose content is
// the same; one that lives on is sent the cut again by the reconciler; and when the engine says that it could not do
// it, the store goes back.
//
// A clone is an empty overlay on a layer that nobody writes to. To have such a one, the base is cut first, without a
// name for it, unless nothing was written since its last cut.
//
// What changes the layers of a volume happens one after the other.
import { listNames, messageOf, refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { CACHE_DEFAULT, sameCache } from './cache.js';
import { assertUnprotected } from './domain-rules.js';
import { EngineGoneError } from './engine-client.js';
import { volumeKey } from './iohv-planner.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { mergeLimit, NO_LIMIT, sameLimit } from './limits.js';
import { type Desired, headOf, LAYERS_MAX, type Layer, type Snapshot, type Volume } from './model.js';
import { assertNoClones, assertUnused, findVolume, type VolumeChanges } from './operations.js';
import type { Store } from './store.js';
import type { Transfers } from './transfers.js';
import { makeDirectoryOf, newContent } from './volume-files.js';

export interface SnapshotsOptions {
  store: Store;
  supervisor: IohvSupervisor;
  transfers: Transfers;
  volumeDir: string;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

export interface CloneSpec extends VolumeChanges {
  base: string;
  /** null: the base as it is now. */
  snapshot: string | null;
  /** Default: that of the base. */
  size?: number | undefined;
}

/** A cut waits for what the guest has under way, and for a flush. */
const CUT_TIMEOUT_MS = 60_000;
/** Making a file takes two syncs. */
const CREATE_TIMEOUT_MS = 60_000;

export class Snapshots {
  private readonly options: SnapshotsOptions;
  /** Name of a volume -> the last of the changes of its layers that wait for one another. */
  private readonly queues = new Map<string, Promise<unknown>>();

  constructor(options: SnapshotsOptions) {
    this.options = options;
  }

  /** Not repeatable: another moment is another snapshot. */
  create(volume: string, name: string): Promise<Snapshot> {
    return this.inTurn(volume, async () => {
      const { store, log } = this.options;
      const check = () => {
        const { volumes, snapshots } = store.desired();
        const found = this.findChangeable(volumes, volume);
        const twin = snapshots.find((other) => other.volume === volume && other.name === name);
        if (twin !== undefined) {
          const taken = new Date(twin.createdAt).toISOString();
          throw refuse('snapshot_exists', `the snapshot ${volume}@${name} was taken at ${taken}`, {
            volume,
            snapshot: name,
          });
        }
        return found;
      };
      await this.cut(check, { name, createdAt: Date.now() });
      log.info('snapshot.created', { volume, snapshot: name });
      return findSnapshot(store.desired(), volume, name);
    });
  }

  /** What nothing else needs goes, at once or, merged with what stands on it, in the background. */
  remove(volume: string, name: string): Promise<void> {
    return this.inTurn(volume, async () => {
      const { store, supervisor, transfers, log, applyTimeoutMs } = this.options;
      const desired = store.desired();
      this.assertNotBehind(findVolume(desired.volumes, volume));
      findSnapshot(desired, volume, name);
      const isClone = ({ base }: Volume) => base?.volume === volume && base.snapshot === name;
      assertNoClones(`the snapshot ${volume}@${name}`, desired.volumes.filter(isClone));
      transfers.assertNone(snapshotName(volume, name));
      store.layers.removeSnapshot(volume, name);
      log.info('snapshot.removed', { volume, snapshot: name });
      await this.makeMergeable(volume);
      await supervisor.apply(applyTimeoutMs);
    });
  }

  /** A clone is gone, and with it, likewise, what it alone needed of its base's layers. */
  async cloneRemoved(clone: string, base: string): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    if (store.desired().volumes.some(({ name }) => name === clone)) {
      log.warn('layers.unmerged', { volume: base, reason: `the clone ${clone} is still being removed` });
      return;
    }
    await this.inTurn(base, () => this.makeMergeable(base));
    await supervisor.apply(applyTimeoutMs);
  }

  /**
   * What is below a head that nothing else needs can be merged with what was written since when that is sealed, so it
   * is. When that cannot be now, the next snapshot of the volume does it.
   */
  private async makeMergeable(volume: string): Promise<void> {
    const { store, log } = this.options;
    try {
      if (store.layers.isSeparable(volume) && !(await this.isUnwritten(findVolume(store.desired().volumes, volume)))) {
        await this.cut(() => this.findChangeable(store.desired().volumes, volume));
      }
    } catch (error) {
      log.warn('layers.unmerged', { volume, reason: messageOf(error) });
    }
  }

  /** The volume holds what it held then; what was written since is gone, unless another snapshot has it. */
  rollback(volume: string, name: string): Promise<void> {
    return this.inTurn(volume, async () => {
      const { store, supervisor, transfers, log, applyTimeoutMs } = this.options;
      const check = () => {
        const { volumes, attachments, snapshots, domains } = store.desired();
        const found = this.findChangeable(volumes, volume, { despiteFault: true });
        assertUnused(
          volume,
          attachments.filter((attachment) => attachment.volume === volume),
        );
        assertUnprotected(domains, volume);
        transfers.assertNone(volume);
        return { found, to: findSnapshot({ volumes, snapshots }, volume, name) };
      };
      const before = check();
      const fresh = await this.makeLayer(volume, sizeOf(before.found));
      await this.orAbandon(fresh, () => {
        const { to } = check();
        store.layers.rollback(volume, fresh.content, headOf({ name: volume, layers: to.layers }).content);
      });
      log.info('snapshot.rolled-back', { volume, snapshot: name });
      await supervisor.apply(applyTimeoutMs);
    });
  }

  /** Returns whether the volume is new. */
  async clone(name: string, spec: CloneSpec): Promise<boolean> {
    const { store, supervisor, transfers, log, applyTimeoutMs } = this.options;
    const { base, snapshot } = spec;
    const limit = mergeLimit(NO_LIMIT, spec.limit ?? {});
    const isNew = () => {
      const twin = store.desired().volumes.find((other) => other.name === name);
      if (twin !== undefined) {
        assertSameClone(twin, spec);
        return false;
      }
      transfers.assertNone(name);
      return true;
    };
    if (!isNew()) {
      return false;
    }
    const made = await this.inTurn(base, async () => {
      const size = await this.sizeOfClone(spec);
      const below = await this.sealed(base, snapshot);
      const head = await this.makeLayer(name, size);
      return this.orAbandon(head, () => {
        if (!isNew()) {
          throw refuse('volume_exists', `the volume ${name} exists`, { volume: name }); // since a moment
        }
        const origin = findVolume(store.desired().volumes, base);
        assertReady(origin);
        const fixed = {
          kind: 'file',
          path: null,
          blockSize: blockSizeOf(origin),
          readOnly: false,
          adopted: false,
          phase: 'ready',
          geometry: null,
          fault: null,
        } as const;
        const layers = [head, ...below];
        const cache = { ...CACHE_DEFAULT, ...spec.cache };
        const changes = { ioTimeoutMs: spec.ioTimeoutMs ?? 0, limit, cache, worker: spec.worker ?? null };
        store.addVolume({ name, size, ...fixed, ...changes, layers, base: { volume: base, snapshot } });
        return { size };
      });
    });
    log.info('volume.cloned', { volume: name, size: made.size, base, snapshot: snapshot ?? undefined });
    await supervisor.apply(applyTimeoutMs);
    return true;
  }

  /** That of what it is a clone of, or a larger one. Nothing has changed when it throws invalid_request. */
  private async sizeOfClone({ base, snapshot, size: wanted }: CloneSpec): Promise<number> {
    const { store } = this.options;
    if (this.findReady(store.desired().volumes, base).geometry === null) {
      await this.untilOpen(base); // nobody knows its blocks before
    }
    const desired = store.desired();
    const volume = findVolume(desired.volumes, base);
    const least =
      snapshot === null
        ? sizeOf(volume)
        : headOf({ name: base, layers: findSnapshot(desired, base, snapshot).layers }).size;
    const size = wanted ?? least;
    if (size < least) {
      throw refuse('invalid_request', `the size ${size} is less than the ${least} of its base`);
    }
    const block = blockSizeOf(volume);
    if (size % block !== 0) {
      const next = Math.ceil(size / block) * block;
      const why = `not a multiple of ${block}, the block size of the storage of its base; ${next} is`;
      throw refuse('invalid_request', `the size ${size} is ${why}`);
    }
    return size;
  }

  /** What a clone of the base can begin with, cut off when need be. */
  private async sealed(base: string, snapshot: string | null): Promise<Layer[]> {
    const { store } = this.options;
    const desired = store.desired();
    const volume = this.findReady(desired.volumes, base);
    if (snapshot !== null) {
      const { layers } = findSnapshot(desired, base, snapshot);
      assertDepth(base, layers.length);
      return layers;
    }
    if (volume.readOnly) {
      assertDepth(base, volume.layers.length);
      return volume.layers;
    }
    if (volume.layers.length === 1 || !(await this.isUnwritten(volume))) {
      await this.cut(() => this.findChangeable(store.desired().volumes, base));
    }
    return findVolume(store.desired().volumes, base).layers.slice(1);
  }

  /** Whether nothing was written to an open volume since its head came; what its cache has written counts. */
  private async isUnwritten(volume: Volume): Promise<boolean> {
    const { supervisor } = this.options;
    if (!supervisor.isVolumeOpen(volume.name)) {
      return false;
    }
    await supervisor.flushVolume(volume.name);
    const [head] = await supervisor.engine.request('volume.layers', { name: volume.name });
    return head?.content === headOf(volume).content && head.clusters === 0 && head.zeroes === 0;
  }

  /** check: finds the volume, and throws when it cannot be cut; asked again before the store is changed. */
  private async cut(check: () => Volume, snapshot?: { name: string; createdAt: number }): Promise<void> {
    const { store, supervisor } = this.options;
    const { name } = check();
    await this.untilOpen(name);
    assertDepth(name, check().layers.length);
    const size = sizeOf(check());
    const head = await this.makeLayer(name, size, headOf(check()).content);
    await this.orAbandon(head, () => {
      check();
      this.assertOpen(name);
      store.layers.cut(name, head.content, size, snapshot);
    });
    await supervisor.followCut(name, head.content, CUT_TIMEOUT_MS);
  }

  /**
   * The file of an overlay, known to the store and durable. continues: the content that the volume has written to so
   * far, and that it goes on with. Throws engine_unavailable, storage_failed.
   */
  private async makeLayer(volume: string, size: number, continues?: string): Promise<Layer> {
    const { store, supervisor, volumeDir } = this.options;
    const { engine } = supervisor;
    const content = newContent();
    const path = `${volumeDir}/${volume}-${content}.layer`;
    const layer = { content, path, size, raw: false, adopted: false };
    store.layers.begin(layer);
    return this.orAbandon(layer, async () => {
      try {
        await makeDirectoryOf(path);
        const args = { path, sizeBytes: size, content, ...(continues !== undefined && { continues }) };
        await engine.request('layer.create', args, CREATE_TIMEOUT_MS);
      } catch (error) {
        throw error instanceof EngineGoneError
          ? error
          : refuse('storage_failed', `${path} cannot be made: ${messageOf(error)}`, { path });
      }
      return layer;
    });
  }

  private async orAbandon<T>({ content }: Layer, body: () => T | Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (error) {
      this.options.store.layers.abandon(content);
      void this.options.supervisor.apply(0);
      throw error;
    }
  }

  /** A volume that can have another head. */
  private findChangeable(volumes: readonly Volume[], name: string, options?: { despiteFault: boolean }): Volume {
    const volume = this.findReady(volumes, name, options);
    if (volume.readOnly) {
      throw refuse('volume_without_snapshots', `the volume ${name} is read-only`, { volume: name });
    }
    return volume;
  }

  /** A volume that has layers and is not being cut. */
  private findReady(volumes: readonly Volume[], name: string, { despiteFault = false } = {}): Volume {
    const volume = findVolume(volumes, name);
    assertReady(volume, despiteFault);
    assertHasFile(volume);
    this.assertNotBehind(volume);
    return volume;
  }

  /** What a killed engine has left of its writes comes when it is opened: a cut before that would be without. */
  private async untilOpen(volume: string): Promise<void> {
    const { supervisor, applyTimeoutMs } = this.options;
    const isKnown = () => supervisor.isVolumeOpen(volume) || supervisor.failureOf(volumeKey(volume)) !== undefined;
    await supervisor.until(isKnown, applyTimeoutMs);
    this.assertOpen(volume);
  }

  private assertOpen(volume: string): void {
    const { supervisor } = this.options;
    void supervisor.engine; // throws when there is none
    if (!supervisor.isVolumeOpen(volume)) {
      const why = supervisor.failureOf(volumeKey(volume)) ?? 'it is being opened';
      throw refuse('volume_not_ready', `the engine does not have open the volume ${volume}: ${why}`, { volume });
    }
  }

  private assertNotBehind(volume: Volume): void {
    if (this.options.supervisor.isBehind(volume)) {
      throw refuse('volume_cutting', `the engine is not done with the last snapshot of the volume ${volume.name}`, {
        volume: volume.name,
      });
    }
  }

  private inTurn<T>(volume: string, body: () => Promise<T>): Promise<T> {
    const before = this.queues.get(volume) ?? Promise.resolve();
    const done = before.then(body, body);
    const settled = done.catch(() => {});
    this.queues.set(volume, settled);
    void settled.then(() => {
      if (this.queues.get(volume) === settled) {
        this.queues.delete(volume);
      }
    });
    return done;
  }
}

/** `disk1@before`; `disk1` as it is when there is no snapshot. */
export function snapshotName(volume: string, snapshot: string | null): string {
  return snapshot === null ? volume : `${volume}@${snapshot}`;
}

/** Throws volume_not_found, snapshot_not_found. */
export function findSnapshot(desired: Pick<Desired, 'volumes' | 'snapshots'>, volume: string, name: string): Snapshot {
  findVolume(desired.volumes, volume);
  const snapshots = desired.snapshots.filter((snapshot) => snapshot.volume === volume);
  const found = snapshots.find((snapshot) => snapshot.name === name);
  if (found === undefined) {
    const known = listNames(snapshots.map((snapshot) => snapshot.name));
    throw refuse('snapshot_not_found', `there is no snapshot ${snapshotName(volume, name)}`, { volume, known });
  }
  return found;
}

const sizeOf = ({ geometry, size }: Volume) => geometry?.size ?? size;
const blockSizeOf = ({ geometry, blockSize }: Volume) => geometry?.blockSize ?? blockSize;

function assertReady({ name, phase, fault }: Volume, despiteFault = false): void {
  if (phase === 'deleting') {
    throw refuse('volume_deleting', `the volume ${name} is being removed`);
  }
  if (phase === 'creating' || (fault !== null && !despiteFault)) {
    const why = fault === null ? 'is not made yet' : `may have lost data (${fault})`;
    throw refuse('volume_not_ready', `the volume ${name} ${why}`, { volume: name });
  }
}

function assertHasFile({ name, kind }: Volume): void {
  if (kind !== 'file') {
    throw refuse('volume_without_snapshots', `the volume ${name} is of kind ${kind}`, { volume: name });
  }
}

/** Throws volume_too_deep when there is no room for another layer on top of so many. */
function assertDepth(volume: string, count: number): void {
  if (count >= LAYERS_MAX) {
    throw refuse('volume_too_deep', `${volume} has ${count} layers, the most that are possible`, { volume });
  }
}

function assertSameClone(present: Volume, spec: CloneSpec): void {
  const { name, base } = present;
  if (present.phase === 'deleting') {
    throw refuse('volume_deleting', `the volume ${name} is being removed`);
  }
  const limit = spec.limit && mergeLimit(NO_LIMIT, spec.limit);
  const isSame =
    base?.volume === spec.base &&
    base.snapshot === spec.snapshot &&
    (spec.size === undefined || spec.size === present.size) &&
    (spec.ioTimeoutMs === undefined || spec.ioTimeoutMs === present.ioTimeoutMs) &&
    (limit === undefined || sameLimit(limit, present.limit)) &&
    sameCache({ ...present.cache, ...spec.cache }, present.cache);
  if (!isSame) {
    const of = base === null ? 'is no clone' : `is a clone of ${snapshotName(base.volume, base.snapshot)}`;
    throw refuse('volume_exists', `the volume ${name} exists and ${of}, of ${present.size} bytes`, { volume: name });
  }
}

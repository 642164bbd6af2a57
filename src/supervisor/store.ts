// The desired state on disk: SQLite with a write-ahead log and synchronous=FULL, so a transaction that was
// acknowledged has been synced, and after kill -9 or a power cut the database opens at the last of them.
//
// One supervisor per state directory: the database is opened in exclusive locking mode and its lock is held
// until the process ends, however it ends.
import { mkdirSync } from 'node:fs';
import Database from 'better-sqlite3';
import { messageOf, OutriggerError, refuse } from '../errors.js';
import { CACHE_DEFAULT, sameCache } from './cache.js';
import { isUnlimited } from './limits.js';
import type { Attachment, Desired, Layer, Nic, NicAttachment, Volume } from './model.js';
import { type Geometry, type Limit, type VolumeCache, WEIGHT_DEFAULT } from './protocol.js';
import { StoredDomains } from './store-domains.js';
import { StoredLayers } from './store-layers.js';
import {
  type AttachmentRecord,
  fromNic,
  type NicRecord,
  toAttachment,
  toNic,
  toNicAttachment,
  toVolume,
  type VolumeRecord,
} from './store-rows.js';
import { migrate, SCHEMA_VERSION, schemaVersion } from './store-schema.js';

export { SCHEMA_VERSION };

/** NULL, as a NIC's, would make NOT IN true for none. */
const ATTACHED_VOLUMES = 'SELECT volume FROM attachments WHERE volume IS NOT NULL';

const rateText = (limit: Limit) => (isUnlimited(limit) ? null : JSON.stringify(limit));

const VOLUMES = `
  SELECT volumes.*, faults.reason AS fault, coalesce(io_timeouts.ms, 0) AS io_timeout_ms, pins.worker,
    caches.settings AS cache
  FROM volumes
  LEFT JOIN faults ON faults.volume = name
  LEFT JOIN io_timeouts ON io_timeouts.volume = name
  LEFT JOIN pins ON pins.volume = name
  LEFT JOIN caches ON caches.volume = name
  ORDER BY name
`;

const ATTACHMENTS = `
  SELECT attachments.*, weights.weight AS weight
  FROM attachments
  LEFT JOIN weights ON weights.attachment = id
  ORDER BY id
`;

export type NewAttachment = Omit<Attachment, 'id' | 'generation'>;
export type NewNicAttachment = Omit<NicAttachment, 'id' | 'generation'>;

/** Each statement is made once, for it holds memory that the garbage collector does not see. */
function keepStatements(db: Database.Database): Database.Database {
  const made = new Map<string, Database.Statement>();
  const prepare = db.prepare.bind(db);
  const prepareOnce = (sql: string) => {
    const statement = made.get(sql) ?? prepare(sql);
    made.set(sql, statement);
    return statement;
  };
  return Object.assign(db, { prepare: prepareOnce as typeof db.prepare });
}

export class Store {
  readonly file: string;
  readonly layers: StoredLayers;
  readonly domains: StoredDomains;
  private readonly db: Database.Database;

  /** Opens or creates STATE_DIR/state.db. Throws state_locked, state_version or state_unreadable. */
  constructor(stateDir: string) {
    this.file = `${stateDir}/state.db`;
    try {
      mkdirSync(stateDir, { recursive: true, mode: 0o700 });
      this.db = keepStatements(new Database(this.file, { timeout: 0 }));
      this.db.pragma('locking_mode = EXCLUSIVE');
      this.db.pragma('journal_mode = WAL');
      this.db.pragma('synchronous = FULL');
      this.db.pragma('foreign_keys = ON');
      this.db.transaction(() => this.migrate()).exclusive();
      this.layers = new StoredLayers(this.db, (body) => this.change(body));
      this.domains = new StoredDomains(this.db, (body) => this.change(body));
    } catch (error) {
      throw this.explain(error, stateDir);
    }
  }

  close(): void {
    this.db.close();
  }

  desired(): Desired {
    const volumes = this.db.prepare<[], VolumeRecord>(VOLUMES).all();
    const attachments = this.db.prepare<[], AttachmentRecord>(ATTACHMENTS).all();
    const nics = this.db.prepare<[], NicRecord>('SELECT * FROM nics ORDER BY name').all();
    const { chainOf, snapshots, dying, merges } = this.layers.read();
    return {
      revision: this.meta('revision') ?? 0,
      cacheBytes: this.meta('cache_bytes') ?? null,
      volumes: volumes.map((record) => toVolume(record, record.head === null ? [] : chainOf(record.head))),
      snapshots,
      dying,
      merges,
      attachments: attachments.flatMap(toAttachment),
      nics: nics.map(toNic),
      nicAttachments: attachments.flatMap(toNicAttachment),
      domains: this.domains.read(),
    };
  }

  /** With its head; the layers below that are there already. */
  addVolume(volume: Volume): void {
    this.change(() => {
      const [head, parent] = volume.layers;
      if (head !== undefined) {
        this.layers.put(head, parent ?? null);
      }
      this.db
        .prepare('INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
        .run(
          volume.name,
          volume.kind,
          volume.path,
          volume.size,
          volume.blockSize,
          Number(volume.readOnly),
          Number(volume.adopted),
          volume.phase,
          volume.geometry === null ? null : JSON.stringify(volume.geometry),
          rateText(volume.limit),
          head?.content ?? null,
          volume.base?.volume ?? null,
          volume.base?.snapshot ?? null,
        );
      this.putIoTimeout(volume.name, volume.ioTimeoutMs);
      this.putPin(volume.name, volume.worker);
      this.putCache(volume.name, volume.cache);
    });
  }

  setIoTimeout(name: string, ms: number): void {
    this.change(() => this.putIoTimeout(name, ms));
  }

  /** null: it belongs to none in particular. */
  setWorker(name: string, worker: number | null): void {
    this.change(() => this.putPin(name, worker));
  }

  setCache(name: string, cache: VolumeCache): void {
    this.change(() => this.putCache(name, cache));
  }

  /** null: the configuration's. */
  setCacheBytes(bytes: number | null): void {
    this.change(() => {
      this.db.prepare(`DELETE FROM meta WHERE key = 'cache_bytes'`).run();
      if (bytes !== null) {
        this.db.prepare(`INSERT INTO meta VALUES ('cache_bytes', ?)`).run(bytes);
      }
    });
  }

  setVolumeLimit(name: string, limit: Limit): void {
    this.change(() => {
      this.db.prepare('UPDATE volumes SET rate = ? WHERE name = ?').run(rateText(limit), name);
    });
  }

  /** The file of a new volume is there. */
  setReady(name: string): void {
    this.change(() => {
      this.db.prepare(`UPDATE volumes SET phase = 'ready' WHERE name = ? AND phase = 'creating'`).run(name);
    });
  }

  /** The volume goes when the engine has closed it; `keepData`: its file stays. */
  startDeleteVolume(name: string, keepData: boolean): void {
    this.change(() => {
      this.db
        .prepare(`UPDATE volumes SET phase = 'deleting', adopted = adopted OR ? WHERE name = ?`)
        .run(Number(keepData), name);
      if (keepData) {
        this.layers.keepHead(name);
      }
    });
  }

  setGeometry(name: string, geometry: Geometry): void {
    this.change(() => {
      this.db.prepare('UPDATE volumes SET geometry = ? WHERE name = ?').run(JSON.stringify(geometry), name);
    });
  }

  /** With its snapshots; `erased` are the layers whose files are gone. */
  removeVolume(name: string, erased: readonly Layer[] = []): void {
    this.change(() => {
      this.db.prepare('DELETE FROM volumes WHERE name = ?').run(name);
      this.layers.dropUnused(erased);
    });
  }

  /** A NIC of that name is replaced. */
  putNic(nic: Nic): void {
    this.change(() => {
      const record = fromNic(nic);
      const columns = Object.keys(record);
      const values = columns.map((column) => `@${column}`).join(', ');
      const updates = columns.map((column) => `${column} = excluded.${column}`).join(', ');
      this.db
        .prepare(
          `INSERT INTO nics (${columns.join(', ')}) VALUES (${values}) ON CONFLICT (name) DO UPDATE SET ${updates}`,
        )
        .run(record);
    });
  }

  /** The NIC goes when the engine has closed it. */
  startDeleteNic(name: string): void {
    this.change(() => {
      this.db.prepare(`UPDATE nics SET phase = 'deleting' WHERE name = ?`).run(name);
    });
  }

  removeNic(name: string): void {
    this.change(() => {
      this.db.prepare('DELETE FROM nics WHERE name = ?').run(name);
    });
  }

  /** All or none. Every attachment gets an id and a generation that were never used before. */
  attach(disks: readonly NewAttachment[], nics: readonly NewNicAttachment[] = []): void {
    this.change(() => {
      const insertDisk = this.db.prepare(
        `INSERT INTO attachments (generation, kind, vm, disk, host, volume, read_only, queues)
         VALUES (?, 'disk', ?, ?, ?, ?, ?, ?)`,
      );
      for (const { vm, disk, host, volume, readOnly, queues, weight } of disks) {
        const row = insertDisk.run(this.nextGeneration(), vm, disk, host, volume, Number(readOnly), queues);
        this.putWeight(Number(row.lastInsertRowid), weight);
      }
      const insertNic = this.db.prepare(
        `INSERT INTO attachments (generation, kind, vm, nic, host, qmp, queues) VALUES (?, 'nic', ?, ?, ?, ?, ?)`,
      );
      for (const { vm, nic, host, qmp, queues } of nics) {
        insertNic.run(this.nextGeneration(), vm, nic, host, qmp, queues);
      }
      this.domains.follow();
    });
  }

  setWeight(id: number, weight: number): void {
    this.change(() => this.putWeight(id, weight));
  }

  detach(ids: readonly number[]): void {
    this.change(() => {
      const remove = this.db.prepare('DELETE FROM attachments WHERE id = ?');
      for (const id of ids) {
        remove.run(id);
      }
      this.domains.follow();
      this.db.prepare(`DELETE FROM faults WHERE volume NOT IN (${ATTACHED_VOLUMES})`).run();
    });
  }

  /** Acknowledged data of the volume may be lost. Counts only while it is attached; the first reason stays. */
  setFault(volume: string, reason: string): void {
    this.change(() => {
      this.db
        .prepare(`INSERT OR IGNORE INTO faults SELECT ?, ? WHERE ? IN (${ATTACHED_VOLUMES})`)
        .run(volume, reason, volume);
    });
  }

  /** The last words of each host, which outlive the engine that heard them. */
  reports(): Map<string, string> {
    const rows = this.db.prepare<[], { host: string; document: string }>('SELECT * FROM reports').all();
    return new Map(rows.map(({ host, document }) => [host, document]));
  }

  putReport(host: string, document: string): void {
    this.db
      .prepare('INSERT INTO reports VALUES (?, ?) ON CONFLICT (host) DO UPDATE SET document = excluded.document')
      .run(host, document);
  }

  private putWeight(attachment: number, weight: number): void {
    this.db.prepare('DELETE FROM weights WHERE attachment = ?').run(attachment);
    if (weight !== WEIGHT_DEFAULT) {
      this.db.prepare('INSERT INTO weights VALUES (?, ?)').run(attachment, weight);
    }
  }

  private putIoTimeout(volume: string, ms: number): void {
    this.db.prepare('DELETE FROM io_timeouts WHERE volume = ?').run(volume);
    if (ms > 0) {
      this.db.prepare('INSERT INTO io_timeouts VALUES (?, ?)').run(volume, ms);
    }
  }

  private putPin(volume: string, worker: number | null): void {
    this.db.prepare('DELETE FROM pins WHERE volume = ?').run(volume);
    if (worker !== null) {
      this.db.prepare('INSERT INTO pins VALUES (?, ?)').run(volume, worker);
    }
  }

  private putCache(volume: string, cache: VolumeCache): void {
    this.db.prepare('DELETE FROM caches WHERE volume = ?').run(volume);
    if (!sameCache(cache, CACHE_DEFAULT)) {
      this.db.prepare('INSERT INTO caches VALUES (?, ?)').run(volume, JSON.stringify(cache));
    }
  }

  /** One durable transaction that counts as a change of the desired state. */
  private change(body: () => void): void {
    this.db
      .transaction(() => {
        body();
        this.db.prepare(`UPDATE meta SET value = value + 1 WHERE key = 'revision'`).run();
      })
      .immediate();
  }

  private nextGeneration(): number {
    this.db.prepare(`UPDATE meta SET value = value + 1 WHERE key = 'generation'`).run();
    return this.meta('generation') ?? 0;
  }

  private meta(key: 'generation' | 'revision' | 'cache_bytes'): number | undefined {
    return this.db.prepare<[string], { value: number }>('SELECT value FROM meta WHERE key = ?').get(key)?.value;
  }

  private migrate(): void {
    const version = schemaVersion(this.db);
    if (version > SCHEMA_VERSION) {
      throw refuse(
        'state_version',
        `${this.file} has schema version ${version}, this program knows ${SCHEMA_VERSION}`,
        {
          file: this.file,
        },
      );
    }
    migrate(this.db);
  }

  private explain(error: unknown, stateDir: string): unknown {
    if (error instanceof Database.SqliteError) {
      return error.code.startsWith('SQLITE_BUSY') || error.code.startsWith('SQLITE_LOCKED')
        ? refuse('state_locked', `${this.file} is locked by another supervisor`)
        : refuse('state_unreadable', `${this.file}: ${error.message} (${error.code})`, { file: this.file });
    }
    return error instanceof OutriggerError
      ? error
      : refuse('state_unreadable', `${stateDir}: ${messageOf(error)}`, { file: this.file });
  }
}

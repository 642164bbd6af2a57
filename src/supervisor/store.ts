// The desired state on disk: SQLite with a write-ahead log and synchronous=FULL, so a transaction that was
// acknowledged has been synced, and after kill -9 or a power cut the database opens at the last of them.
//
// One supervisor per state directory: the database is opened in exclusive locking mode and its lock is held
// until the process ends, however it ends.
import { mkdirSync } from 'node:fs';
import Database from 'better-sqlite3';
import { messageOf, OutriggerError, refuse } from '../errors.js';
import type { Attachment, Desired, Volume, VolumePhase } from './model.js';
import type { Geometry, VolumeKind } from './protocol.js';

export const SCHEMA_VERSION = 1;

const SCHEMA = `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
  INSERT INTO meta VALUES ('generation', 0), ('revision', 0);
  CREATE TABLE volumes (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('file', 'ram', 'null')),
    path TEXT UNIQUE,
    size INTEGER NOT NULL,
    block_size INTEGER NOT NULL,
    read_only INTEGER NOT NULL,
    adopted INTEGER NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'deleting')),
    geometry TEXT
  ) STRICT;
  CREATE TABLE attachments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL UNIQUE,
    vm TEXT NOT NULL,
    disk TEXT NOT NULL,
    host TEXT NOT NULL,
    volume TEXT NOT NULL REFERENCES volumes (name),
    read_only INTEGER NOT NULL,
    queues INTEGER NOT NULL,
    UNIQUE (vm, disk)
  ) STRICT;
  CREATE TABLE reports (host TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT;
`;

/** Volumes that lost acknowledged data, until nobody is attached who was told otherwise. */
const FAULTS = `
  CREATE TABLE IF NOT EXISTS faults (
    volume TEXT PRIMARY KEY REFERENCES volumes (name) ON DELETE CASCADE,
    reason TEXT NOT NULL
  ) STRICT;
`;

/** Of volumes whose requests become errors after some time. */
const IO_TIMEOUTS = `
  CREATE TABLE IF NOT EXISTS io_timeouts (
    volume TEXT PRIMARY KEY REFERENCES volumes (name) ON DELETE CASCADE,
    ms INTEGER NOT NULL
  ) STRICT;
`;

interface VolumeRecord {
  name: string;
  kind: VolumeKind;
  path: string | null;
  size: number;
  block_size: number;
  read_only: number;
  adopted: number;
  phase: VolumePhase;
  geometry: string | null;
  fault: string | null;
  io_timeout_ms: number;
}

const VOLUMES = `
  SELECT volumes.*, faults.reason AS fault, coalesce(io_timeouts.ms, 0) AS io_timeout_ms
  FROM volumes
  LEFT JOIN faults ON faults.volume = name
  LEFT JOIN io_timeouts ON io_timeouts.volume = name
  ORDER BY name
`;

interface AttachmentRecord {
  id: number;
  generation: number;
  vm: string;
  disk: string;
  host: string;
  volume: string;
  read_only: number;
  queues: number;
}

export type NewAttachment = Omit<Attachment, 'id' | 'generation'>;

export class Store {
  readonly file: string;
  private readonly db: Database.Database;

  /** Opens or creates STATE_DIR/state.db. Throws state_locked, state_version or state_unreadable. */
  constructor(stateDir: string) {
    this.file = `${stateDir}/state.db`;
    try {
      mkdirSync(stateDir, { recursive: true, mode: 0o700 });
      this.db = new Database(this.file, { timeout: 0 });
      this.db.pragma('locking_mode = EXCLUSIVE');
      this.db.pragma('journal_mode = WAL');
      this.db.pragma('synchronous = FULL');
      this.db.pragma('foreign_keys = ON');
      this.db.transaction(() => this.migrate()).exclusive();
    } catch (error) {
      throw this.explain(error, stateDir);
    }
  }

  close(): void {
    this.db.close();
  }

  desired(): Desired {
    const volumes = this.db.prepare<[], VolumeRecord>(VOLUMES).all();
    const attachments = this.db.prepare<[], AttachmentRecord>('SELECT * FROM attachments ORDER BY id').all();
    return {
      revision: this.meta('revision'),
      volumes: volumes.map(toVolume),
      attachments: attachments.map(toAttachment),
    };
  }

  addVolume(volume: Volume): void {
    this.change(() => {
      this.db
        .prepare('INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)')
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
        );
      this.putIoTimeout(volume.name, volume.ioTimeoutMs);
    });
  }

  setIoTimeout(name: string, ms: number): void {
    this.change(() => this.putIoTimeout(name, ms));
  }

  /** The file of a new volume is there. */
  setReady(name: string): void {
    this.change(() => {
      this.db.prepare(`UPDATE volumes SET phase = 'ready' WHERE name = ? AND phase = 'creating'`).run(name);
    });
  }

  /** The volume goes when the engine has closed it; `keepData`: its file stays. */
  startDelete(name: string, keepData: boolean): void {
    this.change(() => {
      this.db
        .prepare(`UPDATE volumes SET phase = 'deleting', adopted = adopted OR ? WHERE name = ?`)
        .run(Number(keepData), name);
    });
  }

  setGeometry(name: string, geometry: Geometry): void {
    this.change(() => {
      this.db.prepare('UPDATE volumes SET geometry = ? WHERE name = ?').run(JSON.stringify(geometry), name);
    });
  }

  removeVolume(name: string): void {
    this.change(() => {
      this.db.prepare('DELETE FROM volumes WHERE name = ?').run(name);
    });
  }

  /** All or none. Every attachment gets an id and a generation that were never used before. */
  attach(attachments: readonly NewAttachment[]): void {
    this.change(() => {
      const insert = this.db.prepare(
        `INSERT INTO attachments (generation, vm, disk, host, volume, read_only, queues) VALUES (?, ?, ?, ?, ?, ?, ?)`,
      );
      for (const { vm, disk, host, volume, readOnly, queues } of attachments) {
        this.db.prepare(`UPDATE meta SET value = value + 1 WHERE key = 'generation'`).run();
        insert.run(this.meta('generation'), vm, disk, host, volume, Number(readOnly), queues);
      }
    });
  }

  detach(ids: readonly number[]): void {
    this.change(() => {
      const remove = this.db.prepare('DELETE FROM attachments WHERE id = ?');
      for (const id of ids) {
        remove.run(id);
      }
      this.db.prepare('DELETE FROM faults WHERE volume NOT IN (SELECT volume FROM attachments)').run();
    });
  }

  /** Acknowledged data of the volume may be lost. Counts only while it is attached; the first reason stays. */
  setFault(volume: string, reason: string): void {
    this.change(() => {
      this.db
        .prepare('INSERT OR IGNORE INTO faults SELECT ?, ? WHERE ? IN (SELECT volume FROM attachments)')
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

  private putIoTimeout(volume: string, ms: number): void {
    this.db.prepare('DELETE FROM io_timeouts WHERE volume = ?').run(volume);
    if (ms > 0) {
      this.db.prepare('INSERT INTO io_timeouts VALUES (?, ?)').run(volume, ms);
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

  private meta(key: 'generation' | 'revision'): number {
    return this.db.prepare<[string], { value: number }>('SELECT value FROM meta WHERE key = ?').get(key)?.value ?? 0;
  }

  private migrate(): void {
    const version = this.db.pragma('user_version', { simple: true }) as number;
    if (version > SCHEMA_VERSION) {
      throw refuse(
        'state_version',
        `${this.file} has schema version ${version}, this program knows ${SCHEMA_VERSION}`,
        {
          file: this.file,
        },
      );
    }
    if (version === 0) {
      this.db.exec(SCHEMA);
      this.db.pragma(`user_version = ${SCHEMA_VERSION}`);
    }
    this.db.exec(FAULTS);
    this.db.exec(IO_TIMEOUTS);
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

function toVolume(record: VolumeRecord): Volume {
  const { name, kind, path, size, phase, fault } = record;
  return {
    ...{ name, kind, path, size, phase, fault },
    blockSize: record.block_size,
    readOnly: record.read_only === 1,
    adopted: record.adopted === 1,
    ioTimeoutMs: record.io_timeout_ms,
    geometry: record.geometry === null ? null : (JSON.parse(record.geometry) as Geometry),
  };
}

function toAttachment(record: AttachmentRecord): Attachment {
  const { id, generation, vm, disk, host, volume, queues, read_only } = record;
  return { id, generation, vm, disk, host, volume, queues, readOnly: read_only === 1 };
}

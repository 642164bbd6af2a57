// The tables of the store, and how a store of an older version becomes one of this.
import type Database from 'better-sqlite3';

export const SCHEMA_VERSION = 4;

/** Version 1 knew disks only. Kept as it was, so that every store goes the same way. */
export const VERSION_1 = `
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

/**
 * NICs and rates. Disks and NICs share one table of attachments, so that they share ids; AUTOINCREMENT goes on
 * where the old table was, for an id must not be used twice.
 */
const VERSION_2 = `
  ALTER TABLE volumes ADD COLUMN rate TEXT;
  CREATE TABLE nics (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('tap', 'macvtap', 'hub')),
    interface TEXT UNIQUE,
    bridge TEXT,
    parent TEXT,
    mode TEXT,
    hub TEXT,
    mac TEXT NOT NULL UNIQUE,
    mtu INTEGER NOT NULL,
    addresses TEXT NOT NULL,
    spoof_check INTEGER NOT NULL,
    link_up INTEGER NOT NULL,
    rate TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('ready', 'deleting'))
  ) STRICT;
  CREATE TABLE attachments_2 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('disk', 'nic')),
    vm TEXT NOT NULL,
    host TEXT NOT NULL,
    queues INTEGER NOT NULL,
    disk TEXT,
    volume TEXT REFERENCES volumes (name),
    read_only INTEGER,
    nic TEXT UNIQUE REFERENCES nics (name),
    qmp TEXT,
    UNIQUE (vm, disk),
    CHECK (kind != 'disk' OR (disk IS NOT NULL AND volume IS NOT NULL AND read_only IS NOT NULL AND nic IS NULL)),
    CHECK (kind != 'nic' OR (nic IS NOT NULL AND disk IS NULL AND volume IS NULL))
  ) STRICT;
  INSERT INTO attachments_2 (id, generation, kind, vm, host, queues, disk, volume, read_only)
    SELECT id, generation, 'disk', vm, host, queues, disk, volume, read_only FROM attachments;
  DELETE FROM sqlite_sequence WHERE name = 'attachments_2';
  INSERT INTO sqlite_sequence SELECT 'attachments_2', seq FROM sqlite_sequence WHERE name = 'attachments';
  DROP TABLE attachments;
  ALTER TABLE attachments_2 RENAME TO attachments;
`;

/**
 * Layers: a tree, of which volumes and snapshots name the leaves and what must stay. Every volume with a file has at
 * least one; a program of an earlier version would take the file of a clone's head for its whole content.
 */
const VERSION_3 = `
  CREATE TABLE layers (
    content TEXT PRIMARY KEY,
    parent TEXT REFERENCES layers (content),
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    raw INTEGER NOT NULL,
    adopted INTEGER NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('making', 'ready', 'erasing'))
  ) STRICT;
  CREATE INDEX layers_by_parent ON layers (parent);
  ALTER TABLE volumes ADD COLUMN head TEXT REFERENCES layers (content);
  ALTER TABLE volumes ADD COLUMN base TEXT REFERENCES volumes (name);
  ALTER TABLE volumes ADD COLUMN base_snapshot TEXT;
  CREATE UNIQUE INDEX volumes_by_head ON volumes (head);
  CREATE TABLE snapshots (
    volume TEXT NOT NULL REFERENCES volumes (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    layer TEXT NOT NULL REFERENCES layers (content),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (volume, name)
  ) STRICT;
  CREATE INDEX snapshots_by_layer ON snapshots (layer);
  INSERT INTO layers
    SELECT lower(hex(randomblob(8))), NULL, path, size, 1, adopted, 'ready' FROM volumes WHERE path IS NOT NULL;
  UPDATE volumes SET head = (SELECT content FROM layers WHERE layers.path = volumes.path) WHERE path IS NOT NULL;
`;

/** Of disks that have another weight than the default. */
const WEIGHTS = `
  CREATE TABLE IF NOT EXISTS weights (
    attachment INTEGER PRIMARY KEY REFERENCES attachments (id) ON DELETE CASCADE,
    weight INTEGER NOT NULL
  ) STRICT;
`;

/**
 * Protection domains. A NIC may be attached to several copies of a VM, of which one runs. Dropping the old table of
 * attachments takes what refers to it along, so the weights are put aside.
 */
const VERSION_4 = `
  ${WEIGHTS}
  CREATE TABLE weights_4 AS SELECT * FROM weights;
  CREATE TABLE attachments_4 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('disk', 'nic')),
    vm TEXT NOT NULL,
    host TEXT NOT NULL,
    queues INTEGER NOT NULL,
    disk TEXT,
    volume TEXT REFERENCES volumes (name),
    read_only INTEGER,
    nic TEXT REFERENCES nics (name),
    qmp TEXT,
    UNIQUE (vm, disk),
    UNIQUE (vm, nic),
    CHECK (kind != 'disk' OR (disk IS NOT NULL AND volume IS NOT NULL AND read_only IS NOT NULL AND nic IS NULL)),
    CHECK (kind != 'nic' OR (nic IS NOT NULL AND disk IS NULL AND volume IS NULL))
  ) STRICT;
  INSERT INTO attachments_4 (id, generation, kind, vm, host, queues, disk, volume, read_only, nic, qmp)
    SELECT id, generation, kind, vm, host, queues, disk, volume, read_only, nic, qmp FROM attachments;
  DELETE FROM sqlite_sequence WHERE name = 'attachments_4';
  INSERT INTO sqlite_sequence SELECT 'attachments_4', seq FROM sqlite_sequence WHERE name = 'attachments';
  DROP TABLE attachments;
  ALTER TABLE attachments_4 RENAME TO attachments;
  INSERT OR REPLACE INTO weights SELECT * FROM weights_4;
  DROP TABLE weights_4;
  CREATE TABLE domains (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    journal TEXT NOT NULL UNIQUE,
    journal_bytes INTEGER NOT NULL,
    journal_id TEXT NOT NULL UNIQUE,
    generation INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    overflow TEXT NOT NULL CHECK (overflow IN ('push-back', 'unprotect')),
    commit_timeout_ms INTEGER NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'deleting')),
    intent TEXT CHECK (intent IN ('abort', 'keep', 'reset')),
    resume_epoch INTEGER,
    created_at INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE members (
    vm TEXT PRIMARY KEY,
    domain INTEGER NOT NULL REFERENCES domains (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('active', 'standby', 'fenced')),
    generation INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX members_by_domain ON members (domain);
  CREATE TABLE domain_volumes (
    volume TEXT PRIMARY KEY REFERENCES volumes (name) ON DELETE CASCADE,
    domain INTEGER NOT NULL REFERENCES domains (id) ON DELETE CASCADE,
    content TEXT NOT NULL UNIQUE,
    leaving INTEGER NOT NULL
  ) STRICT;
`;

const STEPS = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

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

/** Volumes that belong to one worker, whatever the policy. */
const PINS = `
  CREATE TABLE IF NOT EXISTS pins (
    volume TEXT PRIMARY KEY REFERENCES volumes (name) ON DELETE CASCADE,
    worker INTEGER NOT NULL
  ) STRICT;
`;

/** Of volumes that use the block cache in another way than by default. */
const CACHES = `
  CREATE TABLE IF NOT EXISTS caches (
    volume TEXT PRIMARY KEY REFERENCES volumes (name) ON DELETE CASCADE,
    settings TEXT NOT NULL
  ) STRICT;
`;

/** Of layers that have the file of another one: the content that its header names. */
const LAYER_HEADERS = `
  CREATE TABLE IF NOT EXISTS layer_headers (
    layer TEXT PRIMARY KEY REFERENCES layers (content) ON DELETE CASCADE,
    header TEXT NOT NULL
  ) STRICT;
`;

/** How far `upper` was merged into `lower`. */
const LAYER_MERGES = `
  CREATE TABLE IF NOT EXISTS layer_merges (
    lower TEXT PRIMARY KEY REFERENCES layers (content) ON DELETE CASCADE,
    upper TEXT NOT NULL,
    next INTEGER NOT NULL
  ) STRICT;
`;

export function schemaVersion(db: Database.Database): number {
  return db.pragma('user_version', { simple: true }) as number;
}

/** Within the caller's transaction: all of it happens, or nothing. */
export function migrate(db: Database.Database): void {
  for (const step of STEPS.slice(schemaVersion(db))) {
    db.exec(step);
  }
  db.pragma(`user_version = ${SCHEMA_VERSION}`);
  db.exec(FAULTS);
  db.exec(IO_TIMEOUTS);
  db.exec(PINS);
  db.exec(CACHES);
  db.exec(LAYER_HEADERS);
  db.exec(LAYER_MERGES);
}

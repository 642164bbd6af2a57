// The layers of volumes in the store, and their snapshots. Layers are a tree; volumes and snapshots name those that
// must stay, with everything below them. What nobody names any more is `erasing`: its file is removed, then its row.
//
//   begin ──> making ── a volume is put on it ──> ready ── nobody needs it ──> erasing ── forget ──> gone
//                └── abandon, or the supervisor ended ────────────────────────────^
//
// A layer without a name that only one other layer stands on, which is not written to either, is merged with that one,
// unless its file was adopted:
// the content of both is put into its file, and when it is there the two change their files. So the one that is needed
// has the file with everything, and the other one goes like any that nobody needs.
//
// A file is made while its row says `making` and removed while it says `erasing`, so no crash leaves one that nobody
// knows of, and nothing is ever removed that is not ours.
import type Database from 'better-sqlite3';
import type { Layer, LayerMerge, Snapshot } from './model.js';

interface LayerRecord {
  content: string;
  parent: string | null;
  path: string;
  size: number;
  raw: number;
  adopted: number;
  phase: 'making' | 'ready' | 'erasing';
  header: string | null;
  upper: string | null;
  next: number | null;
}

const LAYERS = `
  SELECT layers.*, layer_headers.header, layer_merges.upper, layer_merges.next FROM layers
    LEFT JOIN layer_headers ON layer_headers.layer = layers.content
    LEFT JOIN layer_merges ON layer_merges.lower = layers.content
    ORDER BY layers.rowid`;

interface SnapshotRecord {
  volume: string;
  name: string;
  layer: string;
  created_at: number;
}

/** With the files that they had when the engine was asked. */
type MergePair = Pick<LayerMerge, 'upper' | 'lower'>;

interface LayerNames {
  heads: Set<string>;
  snapshots: Set<string>;
}

export interface LayerTree {
  /** Head first. */
  chainOf(content: string): Layer[];
  snapshots: Snapshot[];
  dying: Layer[];
  merges: LayerMerge[];
}

const toLayer = ({ content, path, size, raw, adopted, header }: LayerRecord): Layer => ({
  ...{ content, path, size },
  raw: raw === 1,
  adopted: adopted === 1,
  ...(header === null ? {} : { header }),
});

/** `change`: runs its argument as one durable transaction. */
export class StoredLayers {
  private readonly db: Database.Database;
  private readonly change: (body: () => void) => void;

  constructor(db: Database.Database, change: (body: () => void) => void) {
    this.db = db;
    this.change = change;
  }

  read(): LayerTree {
    const records = new Map(this.records().map((record) => [record.content, record]));
    const snapshots = this.db
      .prepare<[], SnapshotRecord>('SELECT * FROM snapshots ORDER BY volume, created_at, rowid')
      .all();
    const chainOf = (content: string) => chain(records, content).map(toLayer);
    return {
      chainOf,
      snapshots: snapshots.map(({ volume, name, layer, created_at: createdAt }) => ({
        ...{ volume, name, createdAt },
        layers: chainOf(layer),
      })),
      dying: [...records.values()].filter(({ phase }) => phase === 'erasing').map(toLayer),
      merges: mergeable([...records.values()], this.names()).map(([upper, lower]) => ({
        ...{ upper: toLayer(upper), lower: toLayer(lower) },
        next: lower.upper === upper.content ? (lower.next ?? 0) : 0,
      })),
    };
  }

  /** A file is going to be made. */
  begin(layer: Layer): void {
    this.change(() => this.insert(layer, null, 'making'));
  }

  /** It is not needed after all. */
  abandon(content: string): void {
    this.change(() => {
      this.db.prepare(`UPDATE layers SET phase = 'erasing' WHERE content = ? AND phase = 'making'`).run(content);
    });
  }

  /** Nobody makes a file any more: the supervisor has just started. */
  abandonAll(): void {
    if (this.records().some(({ phase }) => phase === 'making')) {
      this.change(() => {
        this.db.prepare(`UPDATE layers SET phase = 'erasing' WHERE phase = 'making'`).run();
      });
    }
  }

  /** The file of a layer that was `erasing` is gone. */
  forget(content: string): void {
    this.change(() => {
      this.db.prepare(`DELETE FROM layers WHERE content = ? AND phase = 'erasing'`).run(content);
    });
  }

  /**
   * Puts a layer that was begun on top of a volume of `size` bytes, so that what is below stays as it is;
   * `snapshot`: and has that name.
   */
  cut(volume: string, content: string, size: number, snapshot?: { name: string; createdAt: number }): void {
    this.change(() => {
      const below = this.headOf(volume);
      this.db.prepare('UPDATE layers SET size = ? WHERE content = ?').run(size, below);
      this.moveHead(volume, content, below);
      if (snapshot !== undefined) {
        this.db
          .prepare('INSERT INTO snapshots (volume, name, layer, created_at) VALUES (?, ?, ?, ?)')
          .run(volume, snapshot.name, below, snapshot.createdAt);
      }
    });
  }

  /** The engine could not do it: `content`, which nobody wrote to, goes, and the names of what is below it. */
  undoCut(volume: string, content: string): void {
    this.change(() => {
      const { parent = null } =
        this.db.prepare<[string], LayerRecord>('SELECT * FROM layers WHERE content = ?').get(content) ?? {};
      if (this.headOf(volume) === content && parent !== null) {
        this.db.prepare('UPDATE volumes SET head = ? WHERE name = ?').run(parent, volume);
        this.db.prepare('DELETE FROM snapshots WHERE volume = ? AND layer = ?').run(volume, parent);
        this.dropUnused();
      }
    });
  }

  removeSnapshot(volume: string, name: string): void {
    this.change(() => {
      this.db.prepare('DELETE FROM snapshots WHERE volume = ? AND name = ?').run(volume, name);
      this.dropUnused();
    });
  }

  /** The volume goes on from `layer`, with a head that was begun; what it held meanwhile goes, unless it has a name. */
  rollback(volume: string, content: string, layer: string): void {
    this.change(() => {
      this.moveHead(volume, content, layer);
      this.dropUnused();
    });
  }

  /** The lower layer's file has what the upper one holds, up to that cluster, durably. */
  noteMerge(merge: MergePair, next: number): void {
    if (this.pairOf(merge) !== undefined) {
      this.change(() => {
        this.db
          .prepare('INSERT OR REPLACE INTO layer_merges (lower, upper, next) VALUES (?, ?, ?)')
          .run(merge.lower.content, merge.upper.content, next);
      });
    }
  }

  /**
   * The lower layer's file has all that the upper one holds, durably: it is the upper one's from now on. False: the two
   * are not to be merged any more.
   */
  merged(merge: MergePair): boolean {
    const pair = this.pairOf(merge);
    if (pair === undefined) {
      return false;
    }
    const [upper, lower] = pair;
    this.change(() => {
      const give = this.db.prepare(
        'UPDATE layers SET path = ?, raw = ?, adopted = ?, parent = ?, phase = ? WHERE content = ?',
      );
      give.run('', lower.raw, lower.adopted, lower.parent, 'ready', upper.content); // no two may have one path
      give.run(upper.path, upper.raw, upper.adopted, null, 'erasing', lower.content);
      this.db.prepare('UPDATE layers SET path = ? WHERE content = ?').run(lower.path, upper.content);
      const forget = this.db.prepare('DELETE FROM layer_headers WHERE layer IN (?, ?)');
      forget.run(upper.content, lower.content);
      if (lower.raw === 0) {
        const header = lower.header ?? lower.content;
        this.db.prepare('INSERT INTO layer_headers (layer, header) VALUES (?, ?)').run(upper.content, header);
      }
      this.db.prepare('DELETE FROM layer_merges WHERE lower IN (?, ?)').run(lower.content, upper.content);
    });
    return true;
  }

  /** Whether the volume's head stands on a layer that nothing else needs: sealed, the two could be merged. */
  isSeparable(volume: string): boolean {
    const head = this.headOf(volume);
    const names = this.names();
    names.heads.delete(head);
    return mergeable(this.records(), names).some(([upper]) => upper.content === head);
  }

  /** Layers that only this volume and its snapshots need. */
  neededBy(volume: string): Layer[] {
    const live = this.live(volume);
    return this.records()
      .filter(({ content, phase }) => phase === 'ready' && !live.has(content))
      .map(toLayer);
  }

  /** Within a change: a layer of a volume that is being added, over `parent`. It may have been begun. */
  put(layer: Layer, parent: Layer | null): void {
    this.db.prepare(`DELETE FROM layers WHERE content = ? AND phase = 'making'`).run(layer.content);
    this.insert(layer, parent?.content ?? null, 'ready');
  }

  /** Within a change: the file of the volume's head is not ours to remove any more. */
  keepHead(volume: string): void {
    this.db.prepare('UPDATE layers SET adopted = 1 WHERE content = ?').run(this.headOf(volume));
  }

  /** Within a change: what nobody names any more goes; those of `erased` have no file any more. */
  dropUnused(erased: readonly Layer[] = []): void {
    const live = this.live();
    const erase = this.db.prepare(`UPDATE layers SET phase = 'erasing', parent = NULL WHERE content = ?`);
    for (const { content, phase } of this.records()) {
      if (phase === 'ready' && !live.has(content)) {
        erase.run(content);
      }
    }
    const remove = this.db.prepare(`DELETE FROM layers WHERE content = ? AND phase = 'erasing'`);
    for (const { content } of erased) {
      remove.run(content);
    }
  }

  private insert({ content, path, size, raw, adopted }: Layer, parent: string | null, phase: string): void {
    this.db
      .prepare('INSERT INTO layers (content, parent, path, size, raw, adopted, phase) VALUES (?, ?, ?, ?, ?, ?, ?)')
      .run(content, parent, path, size, Number(raw), Number(adopted), phase);
  }

  private moveHead(volume: string, content: string, parent: string): void {
    this.db.prepare(`UPDATE layers SET phase = 'ready', parent = ? WHERE content = ?`).run(parent, content);
    this.db.prepare('UPDATE volumes SET head = ? WHERE name = ?').run(content, volume);
  }

  private headOf(volume: string): string {
    const row = this.db
      .prepare<[string], { head: string | null }>('SELECT head FROM volumes WHERE name = ?')
      .get(volume);
    if (row?.head == null) {
      throw new Error(`the volume ${volume} has no layer`);
    }
    return row.head;
  }

  /** As the two are now; undefined: they are not to be merged any more, or one has another file than then. */
  private pairOf({ upper, lower }: MergePair): [LayerRecord, LayerRecord] | undefined {
    const isIt = (record: LayerRecord, { content, path }: Layer) => record.content === content && record.path === path;
    return mergeable(this.records(), this.names()).find(([above, below]) => isIt(above, upper) && isIt(below, lower));
  }

  private records(): LayerRecord[] {
    return this.db.prepare<[], LayerRecord>(LAYERS).all();
  }

  private names(): LayerNames {
    const contents = (sql: string) =>
      new Set(
        this.db
          .prepare<[], { content: string }>(sql)
          .all()
          .map(({ content }) => content),
      );
    return {
      heads: contents('SELECT head AS content FROM volumes WHERE head IS NOT NULL'),
      snapshots: contents('SELECT layer AS content FROM snapshots'),
    };
  }

  /** What volumes and snapshots need, those of one volume left out. */
  private live(without = ''): Set<string> {
    const records = new Map(this.records().map((record) => [record.content, record]));
    const named = this.db
      .prepare<[string, string], { content: string }>(
        `SELECT head AS content FROM volumes WHERE head IS NOT NULL AND name != ?
         UNION SELECT layer FROM snapshots WHERE volume != ?`,
      )
      .all(without, without);
    return new Set(named.flatMap(({ content }) => chain(records, content).map((record) => record.content)));
  }
}

function chain(records: ReadonlyMap<string, LayerRecord>, head: string): LayerRecord[] {
  const found: LayerRecord[] = [];
  for (let next: string | null = head; next !== null; ) {
    const record = records.get(next);
    if (record === undefined || found.length > records.size) {
      throw new Error(`the layers below ${head} make no chain`); // foreign keys keep it from happening
    }
    found.push(record);
    next = record.parent;
  }
  return found;
}

/** Pairs of an upper layer and the one below it, those nearer to the bottom first. */
function mergeable(records: readonly LayerRecord[], names: LayerNames): [LayerRecord, LayerRecord][] {
  const byContent = new Map(records.map((record) => [record.content, record]));
  const children = new Map<string, LayerRecord[]>();
  for (const record of records.filter(({ parent }) => parent !== null)) {
    const siblings = children.get(record.parent ?? '');
    siblings === undefined ? children.set(record.parent ?? '', [record]) : siblings.push(record);
  }
  const isNamed = ({ content }: LayerRecord) => names.heads.has(content) || names.snapshots.has(content);
  const pairs = records
    .filter((lower) => lower.phase === 'ready' && lower.adopted === 0 && !isNamed(lower))
    .flatMap((lower): [LayerRecord, LayerRecord][] => {
      const [upper, ...others] = children.get(lower.content) ?? [];
      const isFit =
        upper?.phase === 'ready' && others.length === 0 && !names.heads.has(upper.content) && upper.size === lower.size;
      return isFit ? [[upper, lower]] : [];
    });
  const depthOf = ([, lower]: [LayerRecord, LayerRecord]) => chain(byContent, lower.content).length;
  return pairs.sort((a, b) => depthOf(a) - depthOf(b));
}

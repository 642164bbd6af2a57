// Protection domains in the store: docs/intercept.md says what they are.
//
// A takeover is one transaction, which changes the roles, raises the generation and says what the engine has to do for
// it, the intent. Whoever comes after a crash finds the intent and does it again; it is cleared when it is done.
//
//   (none) ── takeover, reset ──> abort | keep | reset ── the engine fenced and aborted: settle ──> (none)
//
// A volume is in a domain as long as a VM of it has it attached, and then until the engine has let it go: it must not
// be served without what the domain holds for it.
import type Database from 'better-sqlite3';
import type { Domain, DomainIntent, DomainPhase, MemberRole } from './model.js';
import type { DomainOverflow } from './protocol.js';
import { newContent } from './volume-files.js';

interface DomainRecord {
  id: number;
  name: string;
  bytes: number;
  journal: string;
  journal_bytes: number;
  journal_id: string;
  generation: number;
  worker: number;
  overflow: DomainOverflow;
  commit_timeout_ms: number;
  phase: DomainPhase;
  intent: DomainIntent | null;
  resume_epoch: number | null;
  created_at: number;
}

interface MemberRecord {
  vm: string;
  domain: number;
  role: MemberRole;
  generation: number;
}

interface VolumeRecord {
  volume: string;
  domain: number;
  content: string;
  leaving: number;
}

export type NewDomain = Pick<
  Domain,
  'name' | 'bytes' | 'journal' | 'worker' | 'overflow' | 'commitTimeoutMs' | 'createdAt'
>;

/** What a member has of its domain's disks. */
const WANTED = `
  SELECT DISTINCT attachments.volume, members.domain FROM attachments JOIN members USING (vm)
  WHERE kind = 'disk' AND read_only = 0
`;

/** `change`: runs its argument as one durable transaction. */
export class StoredDomains {
  private readonly db: Database.Database;
  private readonly change: (body: () => void) => void;

  constructor(db: Database.Database, change: (body: () => void) => void) {
    this.db = db;
    this.change = change;
  }

  read(): Domain[] {
    const records = this.db.prepare<[], DomainRecord>('SELECT * FROM domains ORDER BY name').all();
    const members = this.db.prepare<[], MemberRecord>('SELECT * FROM members ORDER BY vm').all();
    const volumes = this.db.prepare<[], VolumeRecord>('SELECT * FROM domain_volumes ORDER BY volume').all();
    return records.map((record) => {
      const { id, name, bytes, generation, worker, overflow, phase, intent } = record;
      return {
        ...{ id, name, bytes, generation, worker, overflow, phase, intent },
        journal: { path: record.journal, bytes: record.journal_bytes, id: record.journal_id },
        commitTimeoutMs: record.commit_timeout_ms,
        resumeEpoch: record.resume_epoch,
        createdAt: record.created_at,
        members: members
          .filter(({ domain }) => domain === id)
          .map(({ vm, role, generation: own }) => ({ vm, role, generation: own })),
        volumes: volumes
          .filter(({ domain }) => domain === id)
          .map(({ volume, content, leaving }) => ({ volume, id: content, leaving: leaving === 1 })),
      };
    });
  }

  /** Its journal is made next, and opened. */
  add(domain: NewDomain, members: readonly { vm: string; role: 'active' | 'standby' }[]): void {
    this.change(() => {
      const { name, bytes, journal, worker, overflow, commitTimeoutMs, createdAt } = domain;
      const { lastInsertRowid } = this.db
        .prepare(
          `INSERT INTO domains (name, bytes, journal, journal_bytes, journal_id, generation, worker, overflow,
             commit_timeout_ms, phase, created_at)
           VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, 'creating', ?)`,
        )
        .run(name, bytes, journal.path, journal.bytes, journal.id, worker, overflow, commitTimeoutMs, createdAt);
      for (const { vm, role } of members) {
        this.insertMember(Number(lastInsertRowid), vm, role);
      }
      this.follow();
    });
  }

  /** Its journal is there, and the engine has opened it. */
  setReady(id: number): void {
    this.change(() => {
      this.db.prepare(`UPDATE domains SET phase = 'ready' WHERE id = ? AND phase = 'creating'`).run(id);
    });
  }

  set(id: number, { overflow, commitTimeoutMs }: Pick<Domain, 'overflow' | 'commitTimeoutMs'>): void {
    this.change(() => {
      this.db
        .prepare('UPDATE domains SET overflow = ?, commit_timeout_ms = ? WHERE id = ?')
        .run(overflow, commitTimeoutMs, id);
    });
  }

  addMember(id: number, vm: string, role: 'active' | 'standby'): void {
    this.change(() => {
      this.insertMember(id, vm, role);
      this.follow();
    });
  }

  removeMember(vm: string): void {
    this.change(() => {
      this.db.prepare('DELETE FROM members WHERE vm = ?').run(vm);
      this.follow();
    });
  }

  /** Those that are active are fenced, and `standbys` are active, with a generation of their own. */
  takeOver(id: number, standbys: readonly string[], intent: 'abort' | 'keep'): void {
    this.change(() => {
      this.db.prepare(`UPDATE members SET role = 'fenced' WHERE domain = ? AND role = 'active'`).run(id);
      const promote = this.db.prepare(`UPDATE members SET role = 'active' WHERE domain = ? AND vm = ?`);
      for (const vm of standbys) {
        promote.run(id, vm);
      }
      this.raise(id, intent);
    });
  }

  /** The domain goes on with another generation and the same VMs. */
  reset(id: number): void {
    this.change(() => this.raise(id, 'reset'));
  }

  /** What was to be done for the present generation cannot be done with it any more. */
  raiseAgain(id: number, intent: DomainIntent): void {
    this.change(() => this.raise(id, intent));
  }

  /** The engine has done what was to be done for this generation. */
  settle(id: number, generation: number, resumeEpoch: number): void {
    this.change(() => {
      this.db
        .prepare('UPDATE domains SET intent = NULL, resume_epoch = ? WHERE id = ? AND generation = ?')
        .run(resumeEpoch, id, generation);
    });
  }

  startDelete(id: number): void {
    this.change(() => this.setDeleting(id));
  }

  /** It is removed, and what it holds is lost. */
  giveUp(id: number): void {
    this.change(() => {
      this.setDeleting(id);
      this.free(id);
    });
  }

  /** Nothing is held for them any more: its volumes and VMs are in none from now on. */
  letGo(id: number): void {
    this.change(() => this.free(id));
  }

  /** Likewise, and the domain is gone. */
  remove(id: number): void {
    this.change(() => {
      this.db.prepare('DELETE FROM domains WHERE id = ?').run(id);
    });
  }

  /** The engine has let the volume go; one that was attached again meanwhile stays. */
  released(volume: string): void {
    this.change(() => {
      this.db.prepare('DELETE FROM domain_volumes WHERE volume = ? AND leaving = 1').run(volume);
      this.follow(); // a VM of another domain may have it attached
    });
  }

  /** Within a change: attachments or members are others. A volume is in one domain, until the engine has let it go. */
  follow(): void {
    const wanted = this.db.prepare<[], { volume: string; domain: number }>(WANTED).all();
    const insert = this.db.prepare(
      `INSERT INTO domain_volumes (volume, domain, content, leaving) VALUES (?, ?, ?, 0)
       ON CONFLICT (volume) DO UPDATE SET leaving = 0 WHERE domain = excluded.domain`,
    );
    this.db.prepare('UPDATE domain_volumes SET leaving = 1').run();
    for (const { volume, domain } of wanted) {
      insert.run(volume, domain, newContent());
    }
  }

  private setDeleting(id: number): void {
    this.db.prepare(`UPDATE domains SET phase = 'deleting' WHERE id = ?`).run(id);
  }

  private free(id: number): void {
    this.db.prepare('DELETE FROM members WHERE domain = ?').run(id);
    this.db.prepare('DELETE FROM domain_volumes WHERE domain = ?').run(id);
    this.follow(); // a VM of another domain may have one attached
  }

  private insertMember(id: number, vm: string, role: 'active' | 'standby'): void {
    this.db
      .prepare(
        `INSERT INTO members (vm, domain, role, generation)
         VALUES (?, ?, ?, CASE WHEN ? = 'active' THEN (SELECT generation FROM domains WHERE id = ?) ELSE 0 END)`,
      )
      .run(vm, id, role, role, id);
  }

  private raise(id: number, intent: DomainIntent): void {
    this.db.prepare('UPDATE domains SET generation = generation + 1, intent = ? WHERE id = ?').run(intent, id);
    this.db
      .prepare(
        `UPDATE members SET generation = (SELECT generation FROM domains WHERE id = ?)
         WHERE domain = ? AND role = 'active'`,
      )
      .run(id, id);
  }
}

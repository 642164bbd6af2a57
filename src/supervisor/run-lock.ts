// One supervisor of a role per run directory, for as long as its process lives, however it ends: it alone may
// activate engines. The lock is that of an SQLite database without content (Node has no flock).
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { messageOf, refuse } from '../errors.js';

export class RunLock {
  private readonly db: Database.Database;

  /** Throws run_dir_locked. */
  constructor(file: string) {
    mkdirSync(dirname(file), { recursive: true });
    this.db = new Database(file, { timeout: 0 });
    try {
      this.db.pragma('journal_mode = MEMORY');
      this.db.exec('BEGIN EXCLUSIVE');
    } catch (error) {
      this.db.close();
      throw refuse('run_dir_locked', `${file} is locked by another supervisor: ${messageOf(error)}`);
    }
  }

  release(): void {
    this.db.close();
  }
}

// Who may do something to a thing just now: any number that share it, or one that owns it. In the order in which
// they came, so that an owner is not kept out for ever.

interface Entry {
  /** What shares it, since the last owner came. */
  sharing: Promise<unknown>[];
  /** The end of the last owner, and of what shared it before him. */
  owned: Promise<unknown>;
  users: number;
}

export class Gate {
  private readonly entries = new Map<string, Entry>();

  share<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.use(key, (entry) => {
      const turn = entry.owned.then(work);
      entry.sharing.push(quietly(turn));
      return turn;
    });
  }

  own<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.use(key, (entry) => {
      const turn = Promise.all([entry.owned, ...entry.sharing]).then(work);
      entry.owned = quietly(turn);
      entry.sharing = [];
      return turn;
    });
  }

  private async use<T>(key: string, begin: (entry: Entry) => Promise<T>): Promise<T> {
    const entry = this.entries.get(key) ?? { sharing: [], owned: Promise.resolve(), users: 0 };
    this.entries.set(key, entry);
    entry.users++;
    try {
      return await begin(entry);
    } finally {
      entry.users--;
      if (entry.users === 0) {
        this.entries.delete(key);
      }
    }
  }
}

const quietly = (work: Promise<unknown>) => work.catch(() => {});

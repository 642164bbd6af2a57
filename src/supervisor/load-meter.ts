// How much each attachment asks for, as a smoothed rate: bytes per second, where every request counts as some more
// because it costs something whatever its size.
import type { ExportLoad } from './protocol.js';

/** About what is read or written in the time that a worker needs for a request by itself. */
const REQUEST_BYTES = 16 << 10;
/** What the latest interval counts; the rest is what was known before. */
const NEW_SHARE = 0.5;

export class LoadMeter {
  /** By worker and attachment: each worker counts what passes there. */
  private totals = new Map<string, number>();
  private rates = new Map<number, number>();

  /** The loads by attachment. `seconds`: since the last call. */
  take(rows: readonly ExportLoad[], seconds: number): ReadonlyMap<number, number> {
    const totals = new Map<string, number>();
    const fresh = new Map<number, number>();
    for (const { id, worker, requests, bytes } of rows) {
      const key = `${worker}/${id}`;
      const total = bytes + requests * REQUEST_BYTES;
      // A volume that has moved begins at 0 there; what is new to us has had a life before.
      const before = this.totals.get(key) ?? (this.rates.has(id) ? 0 : total);
      totals.set(key, total);
      // Less than before: it was removed and added.
      fresh.set(id, (fresh.get(id) ?? 0) + (total < before ? total : total - before));
    }
    const rate = (amount: number, known = 0) => known + NEW_SHARE * (amount / seconds - known);
    this.rates = new Map([...fresh].map(([id, amount]) => [id, rate(amount, this.rates.get(id))]));
    this.totals = totals;
    return this.rates;
  }
}

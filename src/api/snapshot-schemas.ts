// Requests and answers about snapshots: see schemas.ts.
import { type Static, Type } from '@sinclair/typebox';
import { closed, Name, name, oneOf } from './schema-parts.js';

export const SnapshotRequest = Type.Object(
  { name: Name },
  { ...closed, $id: 'SnapshotRequest', description: 'a name for what a volume holds now' },
);
export type SnapshotRequest = Static<typeof SnapshotRequest>;

export const SnapshotView = Type.Object(
  {
    volume: Type.String(),
    name: Type.String(),
    created_at: Type.String({ description: 'ISO 8601' }),
    size: Type.Integer({ description: 'of the volume then, bytes' }),
    stored: Type.Integer({
      description: 'bytes on the disk of what was written between the snapshot before and this one',
    }),
    state: oneOf(['pending', 'ready'], 'pending: the engine is about to take it'),
    clones: Type.Array(Type.String(), { description: 'volumes that began with it' }),
  },
  { $id: 'Snapshot', description: 'what a volume held at a moment' },
);
export type SnapshotView = Static<typeof SnapshotView>;

export const SnapshotParams = Type.Object({
  name: Name,
  snapshot: Name,
});
export type SnapshotParams = Static<typeof SnapshotParams>;

export const SnapshotQuery = Type.Object({
  snapshot: Type.Optional(name('of this snapshot instead, also while the volume is in use')),
});
export type SnapshotQuery = Static<typeof SnapshotQuery>;

export const SNAPSHOT_SCHEMAS = [SnapshotRequest, SnapshotView];

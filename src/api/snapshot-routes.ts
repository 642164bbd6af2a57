// The REST interface of snapshots, on the I/O hypervisor.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { Snapshots } from '../supervisor/snapshots.js';
import type { IohvViews } from './iohv-views.js';
import { NameParams } from './schemas.js';
import { answers } from './server.js';
import { SnapshotParams, type SnapshotRequest } from './snapshot-schemas.js';

export function snapshotRoutes(app: FastifyInstance, snapshots: Snapshots, views: IohvViews): void {
  const tags = ['snapshots'];
  const snapshot = Type.Ref('Snapshot#');

  app.get<{ Params: NameParams }>(
    '/v1/volumes/:name/snapshots',
    {
      schema: {
        operationId: 'listSnapshots',
        tags,
        summary: 'The snapshots of a volume, the oldest first',
        params: NameParams,
        response: answers({ 200: Type.Array(snapshot) }),
      },
    },
    (request) => views.snapshots(request.params.name),
  );
  app.post<{ Params: NameParams; Body: SnapshotRequest }>(
    '/v1/volumes/:name/snapshots',
    {
      schema: {
        operationId: 'createSnapshot',
        tags,
        summary: 'Keep what a volume holds now under a name, also while guests use it',
        params: NameParams,
        body: Type.Ref('SnapshotRequest#'),
        response: answers({ 201: snapshot }),
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      await snapshots.create(name, request.body.name);
      return reply.code(201).send(await views.snapshot(name, request.body.name));
    },
  );
  app.delete<{ Params: SnapshotParams }>(
    '/v1/volumes/:name/snapshots/:snapshot',
    {
      schema: {
        operationId: 'deleteSnapshot',
        tags,
        summary: 'Remove a snapshot; refused while a clone that began with it is there',
        params: SnapshotParams,
        response: answers({ 204: Type.Null({ description: 'done' }) }),
      },
    },
    async (request, reply) => {
      await snapshots.remove(request.params.name, request.params.snapshot);
      return reply.code(204).send();
    },
  );
  app.post<{ Params: SnapshotParams }>(
    '/v1/volumes/:name/snapshots/:snapshot/rollback',
    {
      schema: {
        operationId: 'rollbackVolume',
        tags,
        summary: 'Let a volume that is not attached hold again what it held then',
        params: SnapshotParams,
        response: answers({ 200: Type.Ref('Volume#') }),
      },
    },
    async (request) => {
      const { name, snapshot: to } = request.params;
      await snapshots.rollback(name, to);
      return views.volume(name);
    },
  );
}

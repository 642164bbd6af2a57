// Volumes as streams. These bodies are no JSON and have no limit: they flow between the connection and a file, and
// end when either does.
import { Readable } from 'node:stream';
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { refuse } from '../errors.js';
import type { Transfers } from '../supervisor/transfers.js';
import { NameParams } from './schemas.js';
import { answers } from './server.js';
import { SnapshotQuery } from './snapshot-schemas.js';

export const STREAM_TYPE = 'application/octet-stream';

/** Bytes: what they must be is said by docs/stream.md and checked by who reads them. */
const stream = (description: string) =>
  Type.Unsafe({ description, content: { [STREAM_TYPE]: { schema: { description: 'see docs/stream.md' } } } });

export function transferRoutes(app: FastifyInstance, transfers: Transfers): void {
  const tags = ['volumes'];

  app.get<{ Params: NameParams; Querystring: SnapshotQuery }>(
    '/v1/volumes/:name/export',
    {
      exposeHeadRoute: false, // it would read the whole volume
      schema: {
        operationId: 'exportVolume',
        tags,
        summary: 'The content of a volume or snapshot as one stream; whole only if it ends as the format says',
        params: NameParams,
        querystring: SnapshotQuery,
        response: answers({ 200: stream('the stream') }),
      },
    },
    async (request, reply) =>
      reply.type(STREAM_TYPE).send(await transfers.export(request.params.name, request.query.snapshot)),
  );
  app.get<{ Params: NameParams; Querystring: SnapshotQuery }>(
    '/v1/volumes/:name/digest',
    {
      exposeHeadRoute: false,
      schema: {
        operationId: 'digestVolume',
        tags,
        summary: 'The digest of the content of a volume or snapshot',
        params: NameParams,
        querystring: SnapshotQuery,
        response: answers({ 200: Type.Ref('Digest#') }),
      },
    },
    (request, reply) => {
      const gone = new AbortController();
      reply.raw.once('close', () => gone.abort(refuse('transfer_broken', 'the client went away')));
      return transfers.digest(request.params.name, request.query.snapshot ?? null, gone.signal);
    },
  );
  // In a scope of its own: nowhere else is such a body welcome.
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser(STREAM_TYPE, (_request, payload, done) => done(null, payload));
    scope.put<{ Params: NameParams; Body: unknown }>(
      '/v1/volumes/:name/import',
      {
        schema: {
          operationId: 'importVolume',
          tags,
          summary: 'A new volume out of an exported stream; it exists when all of the stream was right',
          params: NameParams,
          body: stream('what an export gave'),
          response: answers({ 201: Type.Ref('Import#') }),
        },
      },
      async (request, reply) => {
        if (!(request.body instanceof Readable)) {
          throw refuse('invalid_request', `the body must be the stream of an export (${STREAM_TYPE})`);
        }
        return reply.code(201).send(await transfers.import(request.params.name, request.body));
      },
    );
  });
}

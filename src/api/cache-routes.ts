// The block cache: one for all volumes, whose use of it is a property of each.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { CacheOperations } from '../supervisor/cache-operations.js';
import type { CacheChange } from './cache-schemas.js';
import type { IohvViews } from './iohv-views.js';
import { NameParams } from './schemas.js';
import { answers } from './server.js';

export function cacheRoutes(app: FastifyInstance, operations: CacheOperations, views: IohvViews): void {
  const tags = ['cache'];
  const cache = Type.Ref('Cache#');

  app.get(
    '/v1/cache',
    {
      schema: {
        operationId: 'getCache',
        tags,
        summary: 'The block cache: how large, how full, how useful, and for which volumes',
        response: answers({ 200: cache }),
      },
    },
    () => views.cache.cache(),
  );
  app.patch<{ Body: CacheChange }>(
    '/v1/cache',
    {
      schema: {
        operationId: 'changeCache',
        tags,
        summary: 'Give the cache another size, also while guests use it',
        body: Type.Ref('CacheChange#'),
        response: answers({ 200: cache }),
      },
    },
    async (request) => {
      await operations.resize(request.body.size_bytes);
      return views.cache.cache();
    },
  );
  app.post(
    '/v1/cache/drop',
    {
      schema: {
        operationId: 'dropCache',
        tags,
        summary: 'Forget what the cache holds of all volumes; what is not written out yet stays until it is',
        response: answers({ 200: cache }),
      },
    },
    async () => {
      await operations.dropAll();
      return views.cache.cache();
    },
  );
  app.post(
    '/v1/cache/give-up',
    {
      schema: {
        operationId: 'giveUpCache',
        tags,
        summary:
          'Give up acknowledged writes that killed engines had not written out, of volumes that cannot be opened',
        response: answers({ 200: Type.Ref('GivenUp#') }),
      },
    },
    async () => ({ bytes: await operations.giveUpKept() }),
  );
  app.post<{ Params: NameParams }>(
    '/v1/volumes/:name/cache/drop',
    {
      schema: {
        operationId: 'dropVolumeCache',
        tags,
        summary: 'Forget what the cache holds of a volume',
        params: NameParams,
        response: answers({ 200: Type.Ref('Volume#') }),
      },
    },
    async (request) => {
      await operations.drop(request.params.name);
      return views.volume(request.params.name);
    },
  );
}

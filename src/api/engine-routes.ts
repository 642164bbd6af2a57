// The engine and its standby: the same routes for both roles.

import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { EngineStatus, UpgradeResult } from '../supervisor/engine-keeper.js';
import { engineView, processView } from './common-views.js';
import { answers } from './server.js';

/** Either supervisor. */
export interface EngineOwner {
  readonly engineLog: string;
  engineStatus(): EngineStatus;
  upgradeEngine(): Promise<UpgradeResult>;
}

export function engineRoutes(app: FastifyInstance, owner: EngineOwner): void {
  const tags = ['engine'];
  app.get(
    '/v1/engine',
    {
      schema: {
        operationId: 'getEngine',
        tags,
        summary: 'The process that carries the I/O, and the one that stands by',
        response: answers({ 200: Type.Ref('Engine#') }),
      },
    },
    () => engineView(owner.engineStatus(), owner.engineLog),
  );
  app.post(
    '/v1/engine/upgrade',
    {
      schema: {
        operationId: 'upgradeEngine',
        tags,
        summary: 'Replaces the engine by one of the present build; answered when that one serves',
        response: answers({ 200: Type.Ref('EngineUpgrade#') }),
      },
    },
    async () => {
      const { from, to, blackoutMs } = await owner.upgradeEngine();
      return { from: processView(from), to: processView(to), blackout_ms: blackoutMs };
    },
  );
}

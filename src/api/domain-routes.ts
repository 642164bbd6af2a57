// The REST interface of protection domains, on the I/O hypervisor. What must be quick goes over a domain's socket.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { DomainOperations } from '../supervisor/domain-operations.js';
import {
  type CommitRequest,
  type CutRequest,
  DeleteDomainQuery,
  type DomainChange,
  type DomainRequest,
  MemberParams,
  type MemberRequest,
  type TakeoverRequest,
} from './domain-schemas.js';
import type { DomainViews } from './domain-views.js';
import { NameParams } from './schemas.js';
import { answers } from './server.js';

const tags = ['protection domains'];
const domain = Type.Ref('Domain#');
const fenced = Type.Ref('FencedAnswer#');
const none = Type.Null({ description: 'done' });

export function domainRoutes(app: FastifyInstance, operations: DomainOperations, views: DomainViews): void {
  setupRoutes(app, operations, views);
  memberRoutes(app, operations, views);
  epochRoutes(app, operations);
  takeoverRoutes(app, operations);
}

function setupRoutes(app: FastifyInstance, operations: DomainOperations, views: DomainViews): void {
  app.get(
    '/v1/domains',
    {
      schema: {
        operationId: 'listDomains',
        tags,
        summary: 'All protection domains',
        response: answers({ 200: Type.Array(domain) }),
      },
    },
    () => views.domains(),
  );
  app.get<{ Params: NameParams }>(
    '/v1/domains/:name',
    {
      schema: {
        operationId: 'getDomain',
        tags,
        summary: 'One protection domain',
        params: NameParams,
        response: answers({ 200: domain }),
      },
    },
    (request) => views.domain(request.params.name),
  );
  app.post<{ Body: DomainRequest }>(
    '/v1/domains',
    {
      schema: {
        operationId: 'createDomain',
        tags,
        summary: 'Protect VMs, also while they run; 200 when the same domain exists',
        body: Type.Ref('DomainRequest#'),
        response: answers({ 200: domain, 201: domain }),
      },
    },
    async (request, reply) => {
      const { name, vms, standbys = [], bytes, journal_bytes: journalBytes, overflow } = request.body;
      const spec = { vms, standbys, bytes, journalBytes, overflow, commitTimeoutMs: request.body.commit_timeout_ms };
      const created = await operations.create(name, spec);
      return reply.code(created ? 201 : 200).send(await views.domain(name));
    },
  );
  app.patch<{ Params: NameParams; Body: DomainChange }>(
    '/v1/domains/:name',
    {
      schema: {
        operationId: 'changeDomain',
        tags,
        summary: 'Change a protection domain, also while its VMs run',
        params: NameParams,
        body: Type.Ref('DomainChange#'),
        response: answers({ 200: domain }),
      },
    },
    async (request) => {
      const { name } = request.params;
      const { overflow, commit_timeout_ms: commitTimeoutMs } = request.body;
      await operations.set(name, { overflow, commitTimeoutMs });
      return views.domain(name);
    },
  );
  app.delete<{ Params: NameParams; Querystring: DeleteDomainQuery }>(
    '/v1/domains/:name',
    {
      schema: {
        operationId: 'deleteDomain',
        tags,
        summary: 'Commit what a protection domain holds and remove it; its VMs go on without',
        params: NameParams,
        querystring: DeleteDomainQuery,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.remove(request.params.name, request.query.force === 'true');
      return reply.code(204).send();
    },
  );
}

function memberRoutes(app: FastifyInstance, operations: DomainOperations, views: DomainViews): void {
  app.post<{ Params: NameParams; Body: MemberRequest }>(
    '/v1/domains/:name/members',
    {
      schema: {
        operationId: 'addDomainMember',
        tags,
        summary: 'Put a VM into a protection domain: one that runs, or a copy that may take over',
        params: NameParams,
        body: Type.Ref('MemberRequest#'),
        response: answers({ 200: domain, 201: domain }),
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      const { vm, role = 'active' } = request.body;
      const isNew = await operations.addMember(name, vm, role);
      return reply.code(isNew ? 201 : 200).send(await views.domain(name));
    },
  );
  app.delete<{ Params: MemberParams }>(
    '/v1/domains/:name/members/:vm',
    {
      schema: {
        operationId: 'removeDomainMember',
        tags,
        summary: 'Take a VM out of a protection domain; of one that runs, what is held is committed',
        params: MemberParams,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.removeMember(request.params.name, request.params.vm);
      return reply.code(204).send();
    },
  );
}

function epochRoutes(app: FastifyInstance, operations: DomainOperations): void {
  app.post<{ Params: NameParams; Body: CutRequest }>(
    '/v1/domains/:name/cut',
    {
      schema: {
        operationId: 'cutDomain',
        tags,
        summary: 'Close the open epoch and begin the next; while the VMs are paused',
        params: NameParams,
        body: Type.Ref('CutRequest#'),
        response: answers({ 200: Type.Ref('CutAnswer#') }),
      },
    },
    (request) => operations.cut(request.params.name, request.body.generation),
  );
  app.post<{ Params: NameParams; Body: CommitRequest }>(
    '/v1/domains/:name/commit',
    {
      schema: {
        operationId: 'commitDomain',
        tags,
        summary: 'Let an epoch out, when its checkpoint is safe; answers when it is durable',
        params: NameParams,
        body: Type.Ref('CommitRequest#'),
        response: answers({ 200: Type.Ref('CommitAnswer#') }),
      },
    },
    (request) => operations.commit(request.params.name, request.body.epoch, request.body.generation),
  );
  app.post<{ Params: NameParams }>(
    '/v1/domains/:name/abort',
    {
      schema: {
        operationId: 'abortDomain',
        tags,
        summary: 'Drop what is not committed, when everything that wrote it is fenced',
        params: NameParams,
        response: answers({ 204: none }),
      },
    },
    async (request, reply) => {
      await operations.abort(request.params.name);
      return reply.code(204).send();
    },
  );
}

function takeoverRoutes(app: FastifyInstance, operations: DomainOperations): void {
  app.post<{ Params: NameParams; Body: TakeoverRequest }>(
    '/v1/domains/:name/takeover',
    {
      schema: {
        operationId: 'takeOverDomain',
        tags,
        summary: 'Fence the VMs that run, drop what they did since the last commit, and let the standbys run',
        params: NameParams,
        body: Type.Ref('TakeoverRequest#'),
        response: answers({ 200: fenced }),
      },
    },
    (request) => {
      const { vms, keep_uncommitted: keepUncommitted = false, fence_only: fenceOnly = false } = request.body;
      const { force = false } = request.body;
      return operations.takeOver(request.params.name, { vms, keepUncommitted, fenceOnly, force });
    },
  );
  app.post<{ Params: NameParams }>(
    '/v1/domains/:name/reset',
    {
      schema: {
        operationId: 'resetDomain',
        tags,
        summary: 'Let the VMs of a domain run whose state is rewind: they were taken back to the last committed epoch',
        params: NameParams,
        response: answers({ 200: fenced }),
      },
    },
    (request) => operations.reset(request.params.name),
  );
}

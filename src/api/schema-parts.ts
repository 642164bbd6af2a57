// What the schemas of the REST interface are built from.
import { type TSchema, Type } from '@sinclair/typebox';
import { NAME_PATTERN } from '../config/rules.js';

/** Of an object: properties that it does not name are refused. */
export const closed = { additionalProperties: false } as const;

/** description: of the whole; that of `schema` is of the value. */
export const nullable = <T extends TSchema>(schema: T, description?: string) =>
  Type.Union([schema, Type.Null()], description === undefined ? {} : { description });

/** One of these words. */
export const oneOf = <const T extends string>(values: readonly T[], description: string) =>
  Type.Unsafe<T>({ type: 'string', enum: values, description });

export const bytes = (description: string) => Type.Integer({ minimum: 0, description: `${description}, bytes` });

export const name = (description: string) => Type.String({ pattern: NAME_PATTERN, description });
export const Name = name('1 to 63 letters, digits, `.`, `_`, `-`');

// The only place where JavaScript values become C structures and back.
#pragma once

#include <napi.h>

extern "C" {
#include "outrigger.h"
}

// Both throw a Napi::TypeError that names the property when it is missing or of another type.
or_engine_config ConfigFrom(const Napi::Object &object);
void FillCommand(or_command *command, const Napi::Object &args);
// Of NICs at the I/O hypervisor.
void FillNicCommand(or_command *command, const Napi::Object &args);
// Of the block cache: `cache` of an engine, `content` and `cache` of a volume, and commands.
void FillCacheConfig(or_engine_config *config, const Napi::Object &object);
void FillContent(or_command *command, const Napi::Object &args);
void FillVolumeCache(or_command *command, const Napi::Object &args);
void FillCacheCommand(or_command *command, const Napi::Object &args);
// Of protection domains: commands about them, and what says that an export or a NIC is of one.
void FillDomainCommand(or_command *command, const Napi::Object &args);
void FillExportDomain(or_command *command, const Napi::Object &args);
void FillNicDomain(or_command *command, const Napi::Object &args);

// The result of a command that succeeded: undefined where it has none.
Napi::Value ResultOf(Napi::Env env, const or_command &command);
// An Error with `code` (an errno name) for a command that failed.
Napi::Value ErrorOf(Napi::Env env, int error, const char *why);
Napi::Object EventObject(Napi::Env env, const or_event &event);
Napi::Value Nics(Napi::Env env, const or_command &command);
Napi::Value CacheList(Napi::Env env, const or_command &command);
// What a command about a domain has found out.
Napi::Value DomainResult(Napi::Env env, const or_command &command);
// Puts in what happened, and returns the event's name.
const char *DomainEvent(Napi::Object &data, const or_event &event);

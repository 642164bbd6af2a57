// Commands about the block cache, and what it counts.
#include <cstdlib>
#include <string>

#include "arguments.h"
#include "convert.h"

namespace
{

or_cache_mode CacheMode(const Napi::Object &o)
{
    std::string mode = Text(o, "mode", 16);
    for (int m = 0; m < OR_CACHE_MODES; m++)
        if (mode == or_cache_mode_name(static_cast<or_cache_mode>(m)))
            return static_cast<or_cache_mode>(m);
    Reject(o, "mode", "none, write-through or write-back");
}

// Only what is there.
or_cache_change CacheChange(const Napi::Object &o)
{
    or_cache_change c = {};
    c.has_mode = Has(o, "mode");
    c.has_quota = Has(o, "quotaBytes");
    c.has_dirty_max = Has(o, "dirtyBytes");
    c.has_dirty_age = Has(o, "dirtyAgeMs");
    c.has_read_ahead = Has(o, "readAheadBytes");
    if (c.has_mode)
        c.mode = CacheMode(o);
    if (c.has_quota)
        c.quota = U64(o, "quotaBytes");
    if (c.has_dirty_max)
        c.dirty_max = U64(o, "dirtyBytes");
    if (c.has_dirty_age)
        c.dirty_age_ns = static_cast<uint64_t>(Number(o, "dirtyAgeMs", 0, 86400000)) * 1000000;
    if (c.has_read_ahead)
        c.read_ahead_max = U64(o, "readAheadBytes");
    return c;
}

Napi::Object CacheStats(Napi::Env env, const or_cache_stats &s)
{
    Napi::Object o = Napi::Object::New(env);
    Put(o, "hits", s.hits);
    Put(o, "misses", s.misses);
    Put(o, "sharedHits", s.shared_hits);
    Put(o, "evictions", s.evictions);
    Put(o, "bypassed", s.bypassed);
    Put(o, "fetches", s.fetches);
    Put(o, "fetched", s.fetched);
    Put(o, "ahead", s.ahead);
    Put(o, "aheadUsed", s.ahead_used);
    Put(o, "aheadWasted", s.ahead_wasted);
    Put(o, "writtenOut", s.written_out);
    Put(o, "writeOuts", s.write_outs);
    Put(o, "writeErrors", s.write_errors);
    Put(o, "throttled", s.throttled);
    Put(o, "blocks", s.blocks);
    Put(o, "dirty", s.dirty);
    Put(o, "pinned", s.pinned);
    return o;
}

Napi::Object CacheInfo(Napi::Env env, const or_cache_info &i)
{
    Napi::Object o = Napi::Object::New(env);
    Put(o, "bytes", i.bytes);
    Put(o, "bytesTarget", i.bytes_target);
    Put(o, "blocks", i.blocks);
    Put(o, "blocksMax", i.blocks_max);
    Put(o, "metadataBytes", i.metadata_bytes);
    Put(o, "volumes", i.volumes);
    Put(o, "hugeBytes", i.huge_bytes);
    return o;
}

} // namespace

void FillCacheConfig(or_engine_config *c, const Napi::Object &o)
{
    if (!Has(o, "cache"))
        return;
    Napi::Object cache = Object(o, "cache");
    c->cache_bytes = U64(cache, "bytes");
    std::string policy = Text(cache, "policy", 16);
    for (int p = 0; p < OR_CACHE_POLICIES; p++) {
        if (policy == or_cache_policy_name(static_cast<or_cache_policy>(p))) {
            c->cache_policy = static_cast<or_cache_policy>(p);
            return;
        }
    }
    Reject(cache, "policy", "s3fifo, arc or lru");
}

void FillContent(or_command *c, const Napi::Object &o)
{
    if (Has(o, "content"))
        c->content = Content(o, "content");
}

void FillVolumeCache(or_command *c, const Napi::Object &o)
{
    FillContent(c, o);
    if (Has(o, "cache"))
        c->cache = CacheChange(Object(o, "cache"));
}

void FillCacheCommand(or_command *c, const Napi::Object &o)
{
    if (c->type == OR_CMD_CACHE_SET) {
        c->size = U64(o, "bytes");
    } else if (c->type == OR_CMD_VOLUME_CACHE) {
        CopyText(o, "name", c->name);
        c->cache = CacheChange(o);
        c->drop = Has(o, "drop") && Flag(o, "drop");
    }
}

Napi::Value CacheList(Napi::Env env, const or_command &c)
{
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++) {
        const or_cached_info &v = c.cached[i];
        Napi::Object o = Napi::Object::New(env);
        o.Set("name", v.name);
        o.Set("mode", or_cache_mode_name(v.mode));
        o.Set("stats", CacheStats(env, v.stats));
        list.Set(i, o);
    }
    Napi::Object o = Napi::Object::New(env);
    o.Set("info", CacheInfo(env, c.cache_info));
    o.Set("volumes", list);
    return o;
}

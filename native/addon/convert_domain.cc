// Commands about protection domains, and what they are told of.
#include <cstring>
#include <string>

#include "arguments.h"
#include "convert.h"

namespace
{

or_domain_overflow Overflow(const Napi::Object &o)
{
    std::string policy = Text(o, "overflow", 16);
    if (policy == "push-back")
        return OR_DOMAIN_PUSH_BACK;
    if (policy == "unprotect")
        return OR_DOMAIN_UNPROTECT;
    Reject(o, "overflow", "push-back or unprotect");
}

uint32_t DomainId(const Napi::Object &o)
{
    return static_cast<uint32_t>(Number(o, "id", 1, INT32_MAX));
}

void FillPolicy(or_command *c, const Napi::Object &o)
{
    c->has_overflow = Has(o, "overflow");
    c->has_timeout = Has(o, "commitTimeoutMs");
    if (c->has_overflow)
        c->overflow = Overflow(o);
    if (c->has_timeout)
        c->timeout_ms = static_cast<uint32_t>(Number(o, "commitTimeoutMs", 0, 86400000));
}

void FillOpen(or_command *c, const Napi::Object &o)
{
    CopyText(o, "name", c->name);
    c->size = U64(o, "bytes");
    c->journal_id = Content(o, "journalId");
    if (Has(o, "socket"))
        CopyText(o, "socket", c->path);
    FillPolicy(c, o);
}

void FillProtect(or_command *c, const Napi::Object &o)
{
    CopyText(o, "name", c->name);
    if (o.Get("domain").IsNull())
        return;
    Napi::Object domain = Object(o, "domain");
    c->domain = DomainId(domain);
    c->content = Content(domain, "volumeId");
    c->domain_generation = U64(o, "generation");
}

Napi::Object Timing(Napi::Env env, const or_timing &t)
{
    Napi::Object o = Napi::Object::New(env);
    Put(o, "count", t.count);
    Put(o, "totalNs", t.total_ns);
    Put(o, "maxNs", t.max_ns);
    return o;
}

Napi::Object Status(Napi::Env env, const or_domain_status &d)
{
    static const char *const states[] = {"opening", "running", "rewind", "unusable"};
    Napi::Object o = Napi::Object::New(env), times = Napi::Object::New(env);
    Put(o, "id", d.id);
    o.Set("name", d.name);
    o.Set("state", states[d.info.state]);
    Put(o, "generation", d.info.generation);
    Put(o, "open", d.info.open);
    Put(o, "committed", d.info.committed);
    Put(o, "applied", d.info.applied);
    Put(o, "bytes", d.info.bytes);
    Put(o, "bytesMax", d.bytes_max);
    Put(o, "waiting", d.info.waiting);
    Put(o, "packets", d.info.packets);
    Put(o, "packetsFenced", d.info.packets_fenced);
    Put(o, "packetsLost", d.packets_lost);
    Put(o, "writesFenced", d.info.writes_fenced);
    Put(o, "cuts", d.cuts);
    Put(o, "commits", d.commits);
    Put(o, "overflows", d.overflows);
    o.Set("unprotected", d.unprotected);
    Put(o, "connections", d.connections);
    Put(o, "recordsBad", d.records_bad);
    times.Set("cut", Timing(env, d.cut));
    times.Set("sync", Timing(env, d.sync));
    times.Set("release", Timing(env, d.release));
    times.Set("apply", Timing(env, d.apply));
    o.Set("times", times);
    return o;
}

/* Of a cut, commit, fence or reset. */
Napi::Value Epoch(Napi::Env env, const or_command &c)
{
    Napi::Object o = Napi::Object::New(env);
    Put(o, c.type == OR_CMD_DOMAIN_CUT ? "epoch" : "committed", c.epoch);
    if (c.type == OR_CMD_DOMAIN_CUT || c.type == OR_CMD_DOMAIN_COMMIT)
        o.Set("unprotected", c.unprotected);
    return o;
}

} // namespace

void FillExportDomain(or_command *c, const Napi::Object &o)
{
    c->standby = Has(o, "standby") && Flag(o, "standby");
    if (Has(o, "domainGeneration"))
        c->domain_generation = U64(o, "domainGeneration");
}

void FillNicDomain(or_command *c, const Napi::Object &o)
{
    c->has_domain = Has(o, "domain");
    if (!c->has_domain || o.Get("domain").IsNull())
        return;
    Napi::Object domain = Object(o, "domain");
    c->domain = DomainId(domain);
    c->domain_generation = U64(domain, "generation");
}

void FillDomainCommand(or_command *c, const Napi::Object &o)
{
    if (c->type == OR_CMD_VOLUME_PROTECT) {
        FillProtect(c, o);
        return;
    }
    c->id = DomainId(o);
    if (c->type == OR_CMD_DOMAIN_OPEN)
        FillOpen(c, o);
    else if (c->type == OR_CMD_DOMAIN_SET)
        FillPolicy(c, o);
    else if (c->type == OR_CMD_DOMAIN_CLOSE)
        c->forget = Has(o, "forget") && Flag(o, "forget");
    else if (c->type != OR_CMD_DOMAIN_ABORT)
        c->domain_generation = U64(o, "generation");
    if (c->type == OR_CMD_DOMAIN_COMMIT)
        c->epoch = U64(o, "epoch");
}

Napi::Value DomainResult(Napi::Env env, const or_command &c)
{
    if (c.type == OR_CMD_DOMAIN_OPEN)
        return Status(env, c.domains[0]);
    if (c.type != OR_CMD_DOMAIN_LIST)
        return Epoch(env, c);
    Napi::Array list = Napi::Array::New(env, c.count);
    for (uint32_t i = 0; i < c.count; i++)
        list.Set(i, Status(env, c.domains[i]));
    return list;
}

const char *DomainEvent(Napi::Object &data, const or_event &e)
{
    static const char *const names[] = {"domain.overflow", "domain.timeout", "domain.unprotected", "domain.trouble",
                                        "domain.trouble",  "domain.trouble", "domain.rewind",      "domain.epochs"};
    static const char *const troubles[] = {"journal", "condemned", "apply"};
    static_assert(sizeof names / sizeof names[0] == OR_DOMAIN_EVENT_EPOCHS + 1);
    Put(data, "id", e.id);
    data.Set("name", e.name);
    if (e.state >= OR_DOMAIN_EVENT_JOURNAL && e.state <= OR_DOMAIN_EVENT_APPLY)
        data.Set("what", troubles[e.state - OR_DOMAIN_EVENT_JOURNAL]);
    if (e.state == OR_DOMAIN_EVENT_EPOCHS) {
        Put(data, "open", e.open);
        Put(data, "committed", e.committed);
    }
    return names[e.state];
}

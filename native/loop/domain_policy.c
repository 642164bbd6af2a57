/* What a domain does when nobody commits, and what its owner hears of it.
 *
 *   all that it may hold is held, or a commit is late ──push-back──> told once; a commit ends it
 *                                                     └─unprotect──> it cuts and commits by itself until the next cut
 */
#include <string.h>

#include "domains.h"

#define EPOCHS_EVERY_NS UINT64_C(1000000000)

void or_timing_add(struct or_timing *t, uint64_t ns)
{
    t->count++;
    t->total_ns += ns;
    t->max_ns = ns > t->max_ns ? ns : t->max_ns;
}

void or_domain_tell(struct domain *d, enum or_domain_event what)
{
    struct or_domain_info info;
    struct or_event *event = or_engine_event(d->volumes->engine, OR_EVENT_DOMAIN, NULL, 0);
    if (!event)
        return;
    or_domain_read_info(d->domain, &info);
    event->id = d->id;
    event->state = (uint8_t)what;
    event->open = info.open;
    event->committed = info.committed;
    memcpy(event->name, d->name, sizeof event->name);
    or_engine_emit(d->volumes->engine, event);
}

static void watch(struct domain_watch *w, uint64_t reached, struct or_timing *timing, uint64_t now)
{
    if (!w->epoch || reached < w->epoch)
        return;
    or_timing_add(timing, now > w->since_ns ? now - w->since_ns : 0);
    w->epoch = 0;
}

static void tell_epochs(struct domain *d, const struct or_domain_info *info, uint64_t now)
{
    bool changed = info->open != d->told_open || info->committed != d->told_committed;
    if (!changed || now < d->told_ns + EPOCHS_EVERY_NS)
        return;
    d->told_ns = now;
    d->told_open = info->open;
    d->told_committed = info->committed;
    or_domain_tell(d, OR_DOMAIN_EVENT_EPOCHS);
}

/* It does not get what it needs. */
static void suffer(struct domain *d, bool *told, enum or_domain_event what)
{
    if (d->overflow == OR_DOMAIN_UNPROTECT && !d->unprotected) {
        d->unprotected = true;
        or_domain_expose(d->domain);
        or_domain_tell(d, OR_DOMAIN_EVENT_UNPROTECTED);
    } else if (d->overflow == OR_DOMAIN_PUSH_BACK && !*told) {
        *told = true;
        or_domain_tell(d, what);
    }
}

static bool is_late(struct domain *d, const struct or_domain_info *info, uint64_t now)
{
    bool waits = info->open > info->committed + 1 || or_domain_dirty(d->domain);
    if (!waits || info->committed != d->committed_seen)
        d->waits_since = 0;
    d->committed_seen = info->committed;
    if (waits && !d->waits_since)
        d->waits_since = now;
    return waits && d->timeout_ns && now >= d->waits_since + d->timeout_ns;
}

static uint64_t due(const struct domain *d, const struct or_domain_info *info)
{
    uint64_t at = UINT64_MAX;
    if (info->open != d->told_open || info->committed != d->told_committed)
        at = d->told_ns + EPOCHS_EVERY_NS;
    if (d->timeout_ns && d->waits_since && !d->late_told && d->waits_since + d->timeout_ns < at)
        at = d->waits_since + d->timeout_ns;
    return at;
}

uint64_t or_domain_policy_step(struct domain *d, uint64_t now)
{
    struct or_domain_info info;
    or_domain_read_info(d->domain, &info);
    watch(&d->releasing, info.released, &d->status.release, now);
    watch(&d->applying, info.applied, &d->status.apply, now);
    tell_epochs(d, &info, now);
    bool late = is_late(d, &info, now);
    if (d->full)
        suffer(d, &d->full_told, OR_DOMAIN_EVENT_OVERFLOW);
    if (late)
        suffer(d, &d->late_told, OR_DOMAIN_EVENT_TIMEOUT);
    d->full = false; /* told anew when something came free and was not enough */
    d->full_told = d->full_told && (info.waiting || info.bytes > d->bytes_max / 2);
    d->late_told = d->late_told && late;
    if (d->unprotected)
        or_iohv_domain_commit_own(d);
    return due(d, &info);
}

#include "reports.h"

#include <stdlib.h>
#include <string.h>

#define REPORT_EVERY_NS 50000000ull

/* A host that has reported. */
struct report {
    char host[OR_NAME_MAX + 1];
    uint64_t next_ns; /* not before: the next event */
    uint8_t *bytes;   /* what waits; NULL: nothing */
    uint32_t length;
    struct or_list link;
};

void or_reports_open(struct or_reports *reports)
{
    or_list_init(&reports->hosts);
    reports->due = UINT64_MAX;
}

static struct report *report_of(const struct or_reports *reports, const char *host)
{
    for (struct or_list *l = reports->hosts.next; l != &reports->hosts; l = l->next) {
        struct report *r = OR_CONTAINER(l, struct report, link);
        if (strcmp(r->host, host) == 0)
            return r;
    }
    return NULL;
}

static void tell(struct or_engine *e, struct report *r, const uint8_t *document, uint32_t length, uint64_t now)
{
    r->next_ns = now + REPORT_EVERY_NS;
    struct or_event *event = or_engine_event(e, OR_EVENT_HOST_REPORT, document, length);
    if (!event)
        return;
    memcpy(event->name, r->host, sizeof event->name);
    or_engine_emit(e, event);
}

static void forget(struct report *r)
{
    or_list_remove(&r->link);
    free(r->bytes);
    free(r);
}

void or_reports_take(struct or_reports *reports, struct or_engine *e, const char *host, const uint8_t *document,
                     uint32_t length, uint64_t now)
{
    struct report *r = report_of(reports, host);
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r) {
            e->stats.events_dropped++;
            return;
        }
        strncpy(r->host, host, OR_NAME_MAX);
        or_list_append(&reports->hosts, &r->link);
    }
    if (now >= r->next_ns && !r->bytes) {
        tell(e, r, document, length, now);
        return;
    }
    uint8_t *bytes = realloc(r->bytes, length);
    if (!bytes) {
        e->stats.events_dropped++;
        return;
    }
    memcpy(bytes, document, length);
    r->bytes = bytes;
    r->length = length;
    if (r->next_ns < reports->due)
        reports->due = r->next_ns;
}

void or_reports_tell(struct or_reports *reports, struct or_engine *e, uint64_t now)
{
    reports->due = UINT64_MAX;
    for (struct or_list *l = reports->hosts.next; l != &reports->hosts; l = l->next) {
        struct report *r = OR_CONTAINER(l, struct report, link);
        if (r->bytes && now >= r->next_ns) {
            tell(e, r, r->bytes, r->length, now);
            free(r->bytes);
            r->bytes = NULL;
        } else if (r->bytes && r->next_ns < reports->due) {
            reports->due = r->next_ns;
        }
    }
}

void or_reports_forget(struct or_reports *reports, const char *host)
{
    struct report *r = report_of(reports, host);
    if (r)
        forget(r);
}

void or_reports_close(struct or_reports *reports)
{
    while (!or_list_empty(&reports->hosts))
        forget(OR_CONTAINER(reports->hosts.next, struct report, link));
}

/* Reports of hosts on their way to the owner. A host with a key may send thousands in a second: of each
 * host the owner hears the first at once, and after that the latest, at most every REPORT_EVERY_NS
 * (reports.c). So no host fills the ring of events that all share. */
#ifndef OR_REPORTS_H
#define OR_REPORTS_H

#include "engine_internal.h"

struct or_reports {
    struct or_list hosts;
    uint64_t due; /* when the next that waits is to be told; UINT64_MAX: none waits */
};

void or_reports_open(struct or_reports *reports);
/* The bytes are copied. */
void or_reports_take(struct or_reports *reports, struct or_engine *engine, const char *host, const uint8_t *document,
                     uint32_t length, uint64_t now);
/* Tells what is due. */
void or_reports_tell(struct or_reports *reports, struct or_engine *engine, uint64_t now);
/* The host is gone, and with it what waits of it. */
void or_reports_forget(struct or_reports *reports, const char *host);
void or_reports_close(struct or_reports *reports);

#endif

/* Which of a volume's errors are told, and when. */
#include "volume_errors.h"

#define TELL_EVERY_NS 1000000000ull

void or_volume_errors_note(struct or_volume_errors *e, uint8_t op, int error, uint64_t offset, bool flush_failed)
{
    uint32_t count = e->error.count + 1;
    /* The latest is told, but not instead of one that lost data. */
    if (count == 1 || !e->error.flush_failed)
        e->error = (struct or_volume_error){.op = op, .error = error, .offset = offset, .flush_failed = flush_failed};
    e->error.count = count;
    if (flush_failed && !e->lost)
        e->tell_at = 0;
    e->lost |= flush_failed;
}

bool or_volume_errors_take(struct or_volume_errors *e, uint64_t now, struct or_volume_error *out)
{
    if (now < or_volume_errors_due(e))
        return false;
    *out = e->error;
    e->error.count = 0;
    e->tell_at = now + TELL_EVERY_NS;
    return true;
}

uint64_t or_volume_errors_due(const struct or_volume_errors *e)
{
    return e->error.count > 0 ? e->tell_at : UINT64_MAX;
}

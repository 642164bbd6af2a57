#include "nic.h"

#include <assert.h>

const char *or_nic_drop_name(enum or_nic_drop reason)
{
    static const char *const names[] = {"bad_header", "spoofed",   "filtered", "too_long", "no_room",
                                        "queue_full", "link_down", "down",     "fenced"};
    static_assert(sizeof names / sizeof names[0] == OR_NIC_DROP_MAX, "a name for each");
    return names[reason];
}

/* What people are told of a link of a session. */
#ifndef OR_LINK_INFO_H
#define OR_LINK_INFO_H

#include <stdbool.h>
#include <stdint.h>

struct or_link_info {
    bool up; /* it carries requests */
    uint64_t srtt_ns, cwnd_frames, in_flight_frames, frames_lost;
};

#endif

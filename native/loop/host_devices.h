/* The devices of a host's engine: made and removed by command, served in every step, and kept in the
 * supervisor's store so that the next engine goes on with them (keep/, frontend/vhost_handover.c). */
#ifndef OR_HOST_DEVICES_H
#define OR_HOST_DEVICES_H

#include "engine_internal.h"
#include "transport/dispatch.h"

struct or_host_devices;

/* engine and dispatch are borrowed. NULL: out of memory. */
struct or_host_devices *or_host_devices_create(struct or_engine *engine, struct or_dispatch *dispatch);
/* Leaves all devices to a successor. Their requests are still with the dispatcher. */
void or_host_devices_leave(struct or_host_devices *devices);
/* When the dispatcher has ended them. Only now the store hears that this engine has ended. */
void or_host_devices_destroy(struct or_host_devices *devices);

/* A packet from the session: or_client_config.packet. */
void or_host_devices_packet(struct or_host_devices *devices, uint32_t id, uint32_t generation, const uint8_t *packet,
                            uint32_t length);
/* Fills packets_unknown and packets_fenced. */
void or_host_devices_stats(const struct or_host_devices *devices, struct or_engine_stats *out);

/* A step's parts: requests and packets from the guests, results to them. */
uint32_t or_host_devices_poll(struct or_host_devices *devices, uint64_t now);
void or_host_devices_flush(struct or_host_devices *devices, uint64_t now);
uint64_t or_host_devices_deadline(const struct or_host_devices *devices);
bool or_host_devices_arm(struct or_host_devices *devices);
void or_host_devices_disarm(struct or_host_devices *devices);

/* False: it is not a command for devices. */
bool or_host_devices_command(struct or_host_devices *devices, struct or_command *command);

#endif

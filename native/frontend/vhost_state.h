/* The states of a vhost-user device, of any kind. */
#ifndef OR_VHOST_STATE_H
#define OR_VHOST_STATE_H

enum or_vhost_state {
    OR_VHOST_LISTENING, /* no QEMU on the socket */
    OR_VHOST_CONNECTED, /* QEMU is there, rings not started */
    OR_VHOST_RUNNING,   /* at least one ring is started */
    OR_VHOST_BROKEN,    /* refused until QEMU reconnects or resets; reason says why */
};

#endif

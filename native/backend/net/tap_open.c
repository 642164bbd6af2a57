/* Opening taps and macvtaps: what may block, and is done before the worker has them. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "outrigger.h"

#define RETRY_MS 5u

static void pause_ms(uint32_t ms)
{
    struct timespec t = {0, (long)ms * 1000000};
    nanosleep(&t, NULL);
}

/* Becomes the tap's only reader and writer, waiting while another process is. 0 or -errno. */
static int attach(int fd, const char *name, int flags, uint32_t timeout_ms)
{
    for (uint32_t waited = 0;; waited += RETRY_MS) {
        struct ifreq request = {.ifr_flags = (short)(IFF_NO_PI | IFF_VNET_HDR | flags)};
        memcpy(request.ifr_name, name, strlen(name));
        if (ioctl(fd, TUNSETIFF, &request) == 0)
            return 0;
        if (errno != EBUSY || waited >= timeout_ms)
            return -errno;
        pause_ms(RETRY_MS);
    }
}

static int refuse(int fd, int err, char *why, const char *what, const char *name, const char *hint)
{
    if (fd >= 0)
        close(fd);
    snprintf(why, OR_WHY_MAX, "cannot %s %s: %s%s", what, name, strerror(-err), hint);
    return err;
}

static const char *attach_hint(int err)
{
    if (err == -EBUSY)
        return ": another process has it";
    if (err == -EPERM)
        return ": CAP_NET_ADMIN is needed";
    return err == -EINVAL ? ": is it a tap?" : "";
}

int or_tap_open(const char *name, bool multi_queue, uint32_t timeout_ms, char *why)
{
    if (name[0] == '\0' || strlen(name) >= IFNAMSIZ)
        return refuse(-1, -EINVAL, why, "open tap", name, ": a name has 1 to 15 bytes");
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return refuse(-1, -errno, why, "open /dev/net/tun for tap", name, "");
    bool exists = if_nametoindex(name) != 0;
    int kind = IFF_TAP | (multi_queue ? IFF_MULTI_QUEUE : 0);
    int err = attach(fd, name, kind, timeout_ms);
    if (err == -EINVAL) /* it exists, with the other number of queues */
        err = attach(fd, name, kind ^ IFF_MULTI_QUEUE, timeout_ms);
    if (err)
        return refuse(fd, err, why, "open tap", name, attach_hint(err));
    if (!exists && ioctl(fd, TUNSETPERSIST, 1ul) != 0)
        return refuse(fd, -errno, why, "make tap", name, "");
    return fd;
}

/* The device of a macvtap, from /sys/class/net/NAME/tapINDEX/dev. 0 or -errno. */
static int find_device(const char *interface, unsigned int index, dev_t *device)
{
    char path[96];
    unsigned int major_number, minor_number;
    snprintf(path, sizeof path, "/sys/class/net/%s/tap%u/dev", interface, index);
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    int n = fscanf(f, "%u:%u", &major_number, &minor_number);
    fclose(f);
    if (n != 2)
        return -ENODEV;
    *device = makedev(major_number, minor_number);
    return 0;
}

/* Indices of interfaces are the namespace's, so /dev/tapINDEX may be that of another one: it is used only when
 * it is this device, else a node is made for the moment. */
static int open_device(unsigned int index, dev_t device)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/dev/tap%u", index);
    if (stat(path, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == device) {
        int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    snprintf(path, sizeof path, "/dev/outrigger-tap%u-%d", minor(device), (int)gettid());
    unlink(path); /* left by one of this number that was killed */
    if (mknod(path, S_IFCHR | 0600, device) != 0)
        return -errno;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int err = fd < 0 ? -errno : 0;
    unlink(path);
    return err ? err : fd;
}

int or_macvtap_open(const char *interface, uint32_t timeout_ms, char *why)
{
    unsigned int index = strlen(interface) < IFNAMSIZ ? if_nametoindex(interface) : 0;
    if (index == 0)
        return refuse(-1, -ENODEV, why, "open macvtap", interface, "");
    dev_t device = 0;
    int err = find_device(interface, index, &device);
    if (err)
        return refuse(-1, err, why, "open macvtap", interface,
                      ": is it a macvtap, and /sys that of its network namespace?");
    int fd = open_device(index, device);
    for (uint32_t waited = 0; fd == -EBUSY && waited < timeout_ms; waited += RETRY_MS) {
        pause_ms(RETRY_MS);
        fd = open_device(index, device);
    }
    if (fd < 0)
        return refuse(-1, fd, why, "open macvtap", interface, fd == -EPERM ? ": CAP_MKNOD is needed" : "");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (ioctl(fd, TUNSETIFF, &request) != 0)
        return refuse(fd, -errno, why, "set up macvtap", interface, "");
    return fd;
}

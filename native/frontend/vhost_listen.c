/* The sockets that QEMU connects to. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost_handover.h"

/* Where the socket of `path` is bound: beside it, and hidden. A name that can be seen is one that listens. */
static int birthplace(struct sockaddr_un *address, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    address->sun_family = AF_UNIX;
    int length = snprintf(address->sun_path, sizeof(address->sun_path), "%.*s.%s", (int)(name - path), path, name);
    return length < (int)sizeof(address->sun_path) ? 0 : -ENAMETOOLONG;
}

int or_vhost_listen(const char *path, mode_t mode)
{
    struct sockaddr_un address = {0};
    int err = birthplace(&address, path);
    if (err)
        return err;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    unlink(address.sun_path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && chmod(address.sun_path, mode) == 0 &&
        listen(fd, 4) == 0 && rename(address.sun_path, path) == 0)
        return fd;
    err = -errno;
    unlink(address.sun_path);
    close(fd);
    return err;
}

bool or_vhost_listens_at(int fd, const char *path)
{
    struct sockaddr_un expected = {0}, address = {0};
    socklen_t length = sizeof(address) - 1;
    int listening = 0;
    socklen_t size = sizeof(listening);
    struct stat st;
    return birthplace(&expected, path) == 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
           listening && getsockname(fd, (struct sockaddr *)&address, &length) == 0 && address.sun_family == AF_UNIX &&
           strcmp(address.sun_path, expected.sun_path) == 0 && stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* The sockets that QEMU connects to. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost_handover.h"

int or_vhost_listen(const char *path, mode_t mode)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && chmod(path, mode) == 0 && listen(fd, 4) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

bool or_vhost_listens_at(int fd, const char *path)
{
    struct sockaddr_un address = {0};
    socklen_t length = sizeof(address) - 1;
    int listening = 0;
    socklen_t size = sizeof(listening);
    struct stat st;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening &&
           getsockname(fd, (struct sockaddr *)&address, &length) == 0 && address.sun_family == AF_UNIX &&
           strcmp(address.sun_path, path) == 0 && stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

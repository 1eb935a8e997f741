/* Loaded before libc into a store process (LD_PRELOAD): makes chosen calls on data.mdb fail, as a failing disk does.
 *
 * MQ9_FAIL names a file. While it is absent or empty, nothing fails. Otherwise it holds "CALL ERRNO", where CALL is sync
 * (fdatasync, fsync), write (pwrite, writev, pwritev) or meta (writes through an O_DSYNC descriptor alone), and every such
 * call on a file named data.mdb fails with ERRNO. A failing sync has written nothing, as on a disk that is gone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_data_file(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 8) return 0;
    path[length] = 0;
    return strcmp(path + length - 8, "data.mdb") == 0;
}

/* The errno that `call` on `fd` is to fail with, or 0. */
static int failing(const char *call, int fd) {
    const char *order = getenv("MQ9_FAIL");
    if (order == NULL || !is_data_file(fd)) return 0;
    FILE *file = fopen(order, "r");
    if (file == NULL) return 0;
    char name[16] = "";
    int number = 0;
    int fields = fscanf(file, "%15s %d", name, &number);
    fclose(file);
    if (fields != 2) return 0;
    if (strcmp(name, "meta") == 0)
        return strcmp(call, "write") == 0 && (fcntl(fd, F_GETFL) & O_DSYNC) ? number : 0;
    return strcmp(name, call) == 0 ? number : 0;
}

#define FAIL_OR(call, fd, name, type, ...)                    \
    do {                                                      \
        int number = failing(call, fd);                       \
        if (number) { errno = number; return -1; }            \
        static type next;                                     \
        if (next == NULL) next = (type)dlsym(RTLD_NEXT, name); \
        return next(__VA_ARGS__);                             \
    } while (0)

typedef int (*sync_call)(int);
typedef ssize_t (*pwrite_call)(int, const void *, size_t, off_t);
typedef ssize_t (*writev_call)(int, const struct iovec *, int);
typedef ssize_t (*pwritev_call)(int, const struct iovec *, int, off_t);

int fdatasync(int fd) { FAIL_OR("sync", fd, "fdatasync", sync_call, fd); }
int fsync(int fd) { FAIL_OR("sync", fd, "fsync", sync_call, fd); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { FAIL_OR("write", fd, "pwrite", pwrite_call, fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { FAIL_OR("write", fd, "pwrite64", pwrite_call, fd, data, size, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { FAIL_OR("write", fd, "writev", writev_call, fd, parts, count); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { FAIL_OR("write", fd, "pwritev", pwritev_call, fd, parts, count, at); }

/* Another preloaded library that wraps dlsym, and passes lookups on to the next one that does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

static int saw;

int other_shim_saw(void) { return saw; }

void *dlsym(void *handle, const char *name) {
    typedef void *(*lookup)(void *, const char *);
    static lookup next;
    if (!next) {
        lookup libc = (lookup)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
        if (!libc)
            libc = (lookup)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
        next = (lookup)libc(RTLD_NEXT, "dlsym");
    }
    if (strcmp(name, "clEnqueueFillBuffer") == 0)
        saw++;
    return next(handle, name);
}

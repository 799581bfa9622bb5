// Calls the runtime by linked and by looked-up functions, and prints its answers and whose they are.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

int hipGetDevice(int *);
int hipMalloc(void **, size_t);
int hipFree(void *);
int hipMemcpyAsync(void *, const void *, size_t, int, void *);
int hipMemset(void *, int, size_t);
int hipStreamSynchronize(void *);
int hipStreamDestroy(void *);
int hipEventRecord(void *, void *);
int hipDeviceSynchronize(void);
int hipStreamBeginCapture(void *, int);
int hipMemcpyAsync_spt(void *, const void *, size_t, int, void *);

static const char *whose(void *function)
{
    Dl_info info;
    return dladdr(function, &info) && strstr(info.dli_fname, "libshimhip") ? "hooked" : "real";
}

#define TELL(way, name, function, ...) \
    printf("%s %s %d %s\n", way, name, (function)(__VA_ARGS__), whose((void *)(function)))

int main(void)
{
    int device = 0;
    void *memory = NULL;
    char bytes[8];
    TELL("linked", "hipGetDevice", hipGetDevice, &device);
    TELL("linked", "hipMalloc", hipMalloc, &memory, 64);
    TELL("linked", "hipFree", hipFree, NULL);
    TELL("linked", "hipMemcpyAsync", hipMemcpyAsync, bytes, bytes, 4, 4, NULL);
    TELL("linked", "hipMemcpyAsync_spt", hipMemcpyAsync_spt, bytes, bytes, 4, 4, NULL);
    TELL("linked", "hipMemset", hipMemset, bytes, 0, 4);
    TELL("linked", "hipStreamSynchronize", hipStreamSynchronize, NULL);
    TELL("linked", "hipStreamDestroy", hipStreamDestroy, NULL);
    TELL("linked", "hipEventRecord", hipEventRecord, NULL, NULL);
    TELL("linked", "hipDeviceSynchronize", hipDeviceSynchronize);
    TELL("linked", "hipStreamBeginCapture", hipStreamBeginCapture, NULL, 0);
    void *runtime = dlopen("libamdhip64.so.5", RTLD_NOW);
    int (*looked_up)(void **, size_t) = (int (*)(void **, size_t))dlsym(runtime, "hipMalloc");
    TELL("looked up", "hipMalloc", looked_up, &memory, 64);
    return 0;
}

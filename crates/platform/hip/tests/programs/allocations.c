// Whenever the shim allocates memory of the host, and whenever the runtime allocates memory of a device,
// another thread uses HIP before the allocation goes on. Any lock of the shim's around either would end in
// a deadlock, however seldom the threads met otherwise.
// RUNTIME: a runtime whose commands are over at once, and whose allocations call back.
#define _GNU_SOURCE
#include <stdlib.h>

#ifdef RUNTIME
void (*allocating)(void);
static int allocate(void **place, size_t bytes)
{
    if (allocating)
        allocating();
    return !(*place = malloc(bytes));
}
int hipMalloc(void **place, size_t bytes) { return allocate(place, bytes); }
int hipHostMalloc(void **place, size_t bytes, unsigned flags) { return allocate(place, bytes); }
int hipFree(void *memory) { free(memory); return 0; }
int hipGetDevice(int *device) { *device = 0; return 0; }
int hipSetDevice(int device) { return 0; }
int hipGetStreamDeviceId(void *stream) { return 0; }
int hipDeviceGetPCIBusId(char *text, int bytes, int device) { text[0] = '0'; text[1] = 0; return 0; }
int hipDeviceGetAttribute(int *value, int attribute, int device) { *value = 1; return 0; }
int hipExtMallocWithFlags(void **place, size_t bytes, unsigned flags) { *place = calloc(1, bytes); return 0; }
int hipHostRegister(void *memory, size_t bytes, unsigned flags) { return 0; }
int hipHostGetDevicePointer(void **place, void *memory, unsigned flags) { *place = memory; return 0; }
int hipStreamWriteValue32(void *stream, unsigned *word, unsigned value, unsigned flags)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    return 0;
}
int hipStreamWaitValue32(void *stream, unsigned *word, unsigned value, unsigned flags, unsigned mask)
{
    return 0;
}
int hipStreamCreate(void **stream) { static long last = 16; *stream = (void *)(last += 16); return 0; }
int hipStreamDestroy(void *stream) { return 0; }
int hipStreamQuery(void *stream) { return 0; }
int hipStreamSynchronize(void *stream) { return 0; }
int hipStreamGetFlags(void *stream, unsigned *flags) { *flags = 1; return 0; }
int hipStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int hipThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int hipEventRecord(void *event, void *stream) { return 0; }
int hipEventSynchronize(void *event) { return 0; }
int hipGetLastError(void) { return 0; }
int hipMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) { return 0; }
int hipModuleLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                          unsigned bz, unsigned shared, void *stream, void **parameters, void **extra)
{
    return 0;
}
#else
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int hipMalloc(void **, size_t);
int hipHostMalloc(void **, size_t, unsigned);
int hipFree(void *);
int hipStreamCreate(void **);
int hipStreamDestroy(void *);
int hipStreamSynchronize(void *);
int hipEventRecord(void *, void *);
int hipEventSynchronize(void *);
int hipMemcpyAsync(void *, const void *, size_t, int, void *);
int hipModuleLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                          void **, void **);
extern void (*allocating)(void);
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static __thread int watches;
static uintptr_t shim, shim_end;
static sem_t asked, answered;
static int of_host, of_device;
static void *runtime, *of_other;
// What the other thread uses: nothing that is new to the shim, or its stream, or streams that come and go.
static enum { MEMORY, KNOWN, NEW } extent;

static void expect(int result)
{
    if (result) {
        static const char text[] = "a call of HIP failed\n";
        write(1, text, sizeof text - 1);
        _exit(1);
    }
}

static int launch(void *stream)
{
    return hipModuleLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
}

static int look(struct dl_phdr_info *object, size_t bytes, void *count)
{
    ++*(int *)count;
    return 0;
}

static void *other(void *unused)
{
    void *memory, *stream;
    int objects = 0;
    for (;; sem_post(&answered)) {
        while (sem_wait(&asked) && errno == EINTR)
            ;
        expect(!dlsym(runtime, "hipMemcpyAsync"));
        expect(!!dlsym(runtime, "_Znothing"));
        dl_iterate_phdr(look, &objects);
        expect(hipMalloc(&memory, 64));
        expect(hipFree(memory));
        if (extent < KNOWN)
            continue;
        expect(launch(of_other));
        expect(hipMemcpyAsync(NULL, NULL, 64, 4, of_other));
        expect(hipEventRecord((void *)64, of_other));
        expect(hipEventSynchronize((void *)64));
        expect(hipStreamSynchronize(of_other));
        if (extent < NEW)
            continue;
        expect(hipStreamCreate(&stream));
        expect(launch(stream));
        expect(hipStreamDestroy(stream));
    }
}

static void meanwhile(int *count)
{
    watches = 0;
    ++*count;
    sem_post(&asked);
    while (sem_wait(&answered) && errno == EINTR)
        ;
    watches = 1;
}

// Libraries allocate under locks of their own, the loader's among them: only what the shim itself asks for counts.
#define WATCH()                                                               \
    do {                                                                      \
        uintptr_t caller = (uintptr_t)__builtin_return_address(0);            \
        if (watches && caller >= shim && caller < shim_end)                   \
            meanwhile(&of_host);                                              \
    } while (0)

void *malloc(size_t bytes) { WATCH(); return __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { WATCH(); return __libc_calloc(count, bytes); }
void *realloc(void *memory, size_t bytes) { WATCH(); return __libc_realloc(memory, bytes); }
void free(void *memory) { WATCH(); __libc_free(memory); }
int posix_memalign(void **place, size_t alignment, size_t bytes)
{
    WATCH();
    return (*place = __libc_memalign(alignment, bytes)) ? 0 : ENOMEM;
}

static void device_memory(void)
{
    if (watches)
        meanwhile(&of_device);
}

static int find_shim(struct dl_phdr_info *object, size_t bytes, void *unused)
{
    if (!strstr(object->dlpi_name, "libshimhip"))
        return 0;
    shim = shim_end = object->dlpi_addr;
    for (int index = 0; index < object->dlpi_phnum; index++) {
        uintptr_t end = object->dlpi_addr + object->dlpi_phdr[index].p_vaddr + object->dlpi_phdr[index].p_memsz;
        if (object->dlpi_phdr[index].p_type == PT_LOAD && end > shim_end)
            shim_end = end;
    }
    return 1;
}

int main(int count, char **arguments)
{
    alarm(20);
    pthread_t thread;
    void *memory, *stream;
    expect(!dl_iterate_phdr(find_shim, NULL));
    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    runtime = dlopen("libamdhip64.so.6", RTLD_NOW);
    expect(!runtime || pthread_create(&thread, NULL, other, NULL));

    // From the very first lookup on.
    watches = 1;
    expect(!dlsym(runtime, "hipMalloc"));
    expect(hipMalloc(&memory, 64));
    expect(launch(NULL));
    watches = 0;
    int first = of_host;

    expect(hipStreamCreate(&of_other));
    expect(launch(of_other));
    extent = KNOWN;
    watches = 1;
    for (int round = 0; round < 20; round++) {
        expect(hipStreamCreate(&stream));
        for (int more = 0; more < 300; more++)
            expect(launch(stream));
        expect(hipStreamSynchronize(stream));
        expect(hipStreamDestroy(stream));
    }
    watches = 0;

    extent = NEW;
    allocating = device_memory;
    watches = 1;
    int host = of_host;
    shim_end = shim; // of the device alone
    expect(hipMalloc(&memory, 64));
    expect(hipHostMalloc(&memory, 64, 0));
    watches = 0;
    allocating = NULL;
    printf("host: %d, then %d; device: %d\n", first > 0, host > first, of_device);
    return 0;
}
#endif

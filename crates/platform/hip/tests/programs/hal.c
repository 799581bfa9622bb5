// Makes an XQueue over a stream as programs of upstream XSched do, and prints what came of it.
// LOOKED_UP: by dlopen of the library that is named first, as Python does; else it is linked.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef uint64_t Handle;
int HipQueueCreate(Handle *, void *);
int HwQueueDestroy(Handle);
int HwQueueLaunch(Handle, Handle);
int HwQueueSynchronize(Handle);
int HwCommandCreateCallback(Handle *, int (*)(Handle, void *), void *);
int HwCommandDestroy(Handle);
int XQueueCreate(Handle *, Handle, int64_t, int64_t);
int XQueueDestroy(Handle);
int XQueueGet(Handle *, Handle);
int XQueueSetPreemptLevel(Handle, int64_t);
int XQueueSetLaunchConfig(Handle, int64_t, int64_t);
int XQueueSubmit(Handle, Handle);
int XQueueWait(Handle, Handle);
int XQueueWaitAll(Handle);
int XQueueQuery(Handle, int *);
int XQueueSuspend(Handle, int64_t);
int XQueueResume(Handle, int64_t);
int XQueueProfileHwCommandCount(Handle, int64_t *);
int XHintSetScheduler(int, int);
int XHintPriority(Handle, int32_t);
int XHintUtilization(Handle, int32_t);
int XHintTimeslice(int64_t);
int XHintLaxity(Handle, int64_t, int32_t, int32_t);
int XHintDeadline(Handle, int64_t);
int XHintKDeadline(size_t);

int hipStreamCreate(void **);
int hipStreamDestroy(void *);
int hipStreamSynchronize(void *);
int hipGetDevice(int *);
int hipSetDevice(int);
int hipDeviceSynchronize(void);
int hipModuleLoadData(void **, const void *);
int hipModuleGetFunction(void **, void *, const char *);
int hipModuleLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          void *, void **, void **);
int hipHostMalloc(void **, size_t, unsigned);

static void *hal, *stream, *append;
// A count and the numbers of kernels. The host reads it without a command, which would wait for the stream.
static volatile unsigned *list;
#ifdef LOOKED_UP
#define HAL(name) ((__typeof__(&name))dlsym(hal, #name))
#else
#define HAL(name) name
#endif

#define EXPECT(result, call)                                                        \
    do {                                                                            \
        int found = (call);                                                         \
        if (found != (result)) {                                                    \
            printf("%s is %d, not %d\n", #call, found, (result));                   \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

static int launch(Handle queue, void *number)
{
    unsigned value = (unsigned)(uintptr_t)number;
    void *parameters[] = {(void *)&list, &value};
    return hipModuleLaunchKernel(append, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

static int fail(Handle queue, void *data)
{
    return 1;
}

// How many kernels were executed, and whether in the order of their numbers.
static unsigned executed(int *in_order)
{
    unsigned count = list[0];
    for (unsigned index = 0; in_order && index < count; index++)
        *in_order &= list[index + 1] == index;
    return count;
}

static sem_t begun, go_on;
static atomic_int launched;
static int told;

// A launch that takes until it is told to go on.
static int slow(Handle queue, void *number)
{
    sem_post(&begun);
    sem_wait(&go_on);
    launched++;
    return number ? launch(queue, number) : 0;
}

static int counting(Handle queue, void *data)
{
    launched++;
    return 0;
}

static int on_device(Handle queue, void *device)
{
    int current = -1;
    launched += !hipGetDevice(&current) && current == (int)(uintptr_t)device;
    return 0;
}

static int ends_its_queue(Handle queue, void *xqueue)
{
    told = HAL(XQueueDestroy)(*(Handle *)xqueue);
    sem_post(&begun);
    return 0;
}

static void submit(Handle xqueue, int (*launch)(Handle, void *), void *data)
{
    Handle command;
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch, data));
    EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
    EXPECT(0, HAL(HwCommandDestroy)(command));
}

static void *end(void *xqueue)
{
    EXPECT(0, HAL(XQueueDestroy)(*(Handle *)xqueue));
    return (void *)(uintptr_t)launched;
}

// What was submitted is launched when the queue has ended, unless a command ends it.
static void destroying(Handle queue, int level)
{
    Handle xqueue;
    pthread_t thread;
    void *seen;
    int state;
    launched = 0;
    EXPECT(0, HAL(XQueueCreate)(&xqueue, queue, level, 0));
    submit(xqueue, slow, NULL);
    sem_wait(&begun);
    for (int more = 0; more < 20; more++)
        submit(xqueue, counting, NULL);
    EXPECT(0, pthread_create(&thread, NULL, end, &xqueue));
    // Its handle is gone as soon as it ends.
    while (HAL(XQueueQuery)(xqueue, &state) != 3)
        usleep(100);
    sem_post(&go_on);
    EXPECT(0, pthread_join(thread, &seen));
    printf("ended with %d of 21 launched\n", (int)(uintptr_t)seen);

    EXPECT(0, HAL(XQueueCreate)(&xqueue, queue, level, 0));
    submit(xqueue, ends_its_queue, &xqueue);
    sem_wait(&begun);
    EXPECT(3, HAL(XQueueQuery)(xqueue, &state));
    printf("ended by its own command: %d\n", told);
}

static pthread_barrier_t together;
static atomic_int made;

static void *make(void *queue)
{
    Handle xqueue;
    pthread_barrier_wait(&together);
    int result = HAL(XQueueCreate)(&xqueue, *(Handle *)queue, 1, 0);
    EXPECT(1, result == 0 || result == 4);
    made += result == 0;
    return NULL;
}

// Of threads that make an XQueue of one stream at once, one does.
static void racing(Handle queue)
{
    enum { THREADS = 8, ROUNDS = 50 };
    pthread_t threads[THREADS];
    Handle xqueue;
    made = 0;
    EXPECT(0, pthread_barrier_init(&together, NULL, THREADS));
    for (int round = 0; round < ROUNDS; round++) {
        for (int index = 0; index < THREADS; index++)
            EXPECT(0, pthread_create(&threads[index], NULL, make, &queue));
        for (int index = 0; index < THREADS; index++)
            EXPECT(0, pthread_join(threads[index], NULL));
        EXPECT(round + 1, made);
        EXPECT(0, HAL(XQueueGet)(&xqueue, queue));
        EXPECT(0, HAL(XQueueDestroy)(xqueue));
        EXPECT(3, HAL(XQueueGet)(&xqueue, queue));
    }
    printf("made once of %d at once\n", THREADS);
}

static void *suspend(void *xqueue)
{
    EXPECT(0, HAL(XQueueSuspend)(*(Handle *)xqueue, 1));
    return (void *)(uintptr_t)launched;
}

// Suspended with a wait, and resumed without what was submitted meanwhile.
static unsigned suspending(Handle xqueue, unsigned number)
{
    pthread_t thread;
    void *seen;
    Handle command;
    int state = 0;
    launched = 0;
    submit(xqueue, slow, (void *)(uintptr_t)number++);
    sem_wait(&begun);
    EXPECT(0, pthread_create(&thread, NULL, suspend, &xqueue));
    sem_post(&go_on);
    EXPECT(0, pthread_join(thread, &seen));
    printf("suspended with a wait: all executed %d\n", executed(NULL) == number);
    EXPECT(1, (int)(uintptr_t)seen);
    for (int more = 0; more < 20; more++)
        submit(xqueue, counting, NULL);
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, counting, NULL));
    EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
    EXPECT(0, HAL(XQueueQuery)(xqueue, &state));
    EXPECT(5, HAL(XQueueSuspend)(xqueue, 8));
    EXPECT(5, HAL(XQueueResume)(xqueue, 2));
    EXPECT(0, HAL(XQueueResume)(xqueue, 1));
    EXPECT(0, HAL(XQueueWait)(xqueue, command));
    EXPECT(0, HAL(XQueueWaitAll)(xqueue));
    printf("dropped: %d launched, state %d\n", (int)launched - 1, state);
    submit(xqueue, launch, (void *)(uintptr_t)number++);
    EXPECT(0, HAL(XQueueSuspend)(xqueue, 2));
    EXPECT((int)number, (int)executed(NULL));
    EXPECT(0, HAL(XQueueResume)(xqueue, 0));
    submit(xqueue, launch, (void *)(uintptr_t)number++);
    EXPECT(0, HAL(XQueueSuspend)(xqueue, 4));
    EXPECT((int)number, (int)executed(NULL));
    EXPECT(0, HAL(XQueueResume)(xqueue, 1));
    return number;
}

static void *there[2];

// Two kernels on the null stream of the device that is current, the first until a word is 1.
static int launch_there(Handle queue, void *word)
{
    unsigned one = 1, value = list[0];
    void *until[] = {&word, &one}, *parameters[] = {(void *)&list, &value};
    int result = hipModuleLaunchKernel(there[0], 1, 1, 1, 1, 1, 1, 0, NULL, until, NULL);
    return result ? result : hipModuleLaunchKernel(there[1], 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL);
}

// A default stream is its device's, wherever its handle is used.
static void on_another_device(int level)
{
    Handle queue, other, xqueue, command;
    int device = -1, state = 0;
    unsigned before = executed(NULL);
    volatile unsigned *word = list + 10000;
    void *module;
    launched = 0;
    EXPECT(5, HAL(HipQueueCreate)(&queue, (void *)2));
    EXPECT(0, hipSetDevice(1));
    EXPECT(0, hipModuleLoadData(&module, ""));
    EXPECT(0, hipModuleGetFunction(&there[0], module, "until_u32"));
    EXPECT(0, hipModuleGetFunction(&there[1], module, "append_u32"));
    // A function's first launch waits for the whole device.
    *word = 1;
    EXPECT(0, launch_there(0, (void *)word));
    EXPECT(0, hipDeviceSynchronize());
    EXPECT((int)++before, (int)executed(NULL));
    *word = 0;
    EXPECT(0, HAL(HipQueueCreate)(&queue, NULL));
    EXPECT(0, HAL(XQueueCreate)(&xqueue, queue, level, 0));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, 2, 1));
    EXPECT(0, hipSetDevice(0));
    EXPECT(0, HAL(HipQueueCreate)(&other, NULL));
    for (int more = 0; more < 20; more++)
        submit(xqueue, on_device, (void *)1);
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, on_device, (void *)1));
    EXPECT(0, HAL(HwQueueLaunch)(queue, command));
    EXPECT(0, hipGetDevice(&device));
    EXPECT(0, device);
    EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
    EXPECT(0, HAL(XQueueWait)(xqueue, command));
    EXPECT(0, HAL(XQueueWaitAll)(xqueue));
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch_there, (void *)word));
    EXPECT(0, HAL(HwQueueLaunch)(queue, command));
    EXPECT(0, HAL(XQueueQuery)(xqueue, &state));
    EXPECT(2, state);
    *word = 1;
    EXPECT(0, HAL(HwQueueSynchronize)(queue));
    EXPECT((int)before + 1, (int)executed(NULL));
    EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
    EXPECT(0, HAL(XQueueWait)(xqueue, command));
    EXPECT((int)before + 2, (int)executed(NULL));
    EXPECT(0, HAL(XQueueQuery)(xqueue, &state));
    EXPECT(1, state);
    EXPECT(0, HAL(XQueueSuspend)(xqueue, 1));
    EXPECT(0, hipGetDevice(&device));
    EXPECT(0, HAL(XQueueDestroy)(xqueue));
    EXPECT(0, HAL(HwQueueDestroy)(queue));
    EXPECT(0, HAL(HwQueueDestroy)(other));
    printf("on its device: %d of 22, this thread's is %d\n", launched, device);
}

int main(int count, char **arguments)
{
    alarm(20);
    hal = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    sem_init(&begun, 0, 0);
    sem_init(&go_on, 0, 0);
    int level = atoi(arguments[2]), in_order = 1, state = 0;
    void *module;
    Handle queue, other, xqueue, same, command, broken;
    int64_t before, after;

    EXPECT(2, HAL(XHintSetScheduler)(2, 99));
    EXPECT(0, HAL(XHintSetScheduler)(2, 1));
    EXPECT(0, hipStreamCreate(&stream));
    EXPECT(0, hipModuleLoadData(&module, ""));
    EXPECT(0, hipModuleGetFunction(&append, module, "append_u32"));
    EXPECT(0, hipHostMalloc((void **)&list, 1 << 16, 0));
    list[0] = 0;

    EXPECT(0, HAL(HipQueueCreate)(&queue, stream));
    EXPECT(4, HAL(XHintSetScheduler)(2, 1));
    EXPECT(4, HAL(HipQueueCreate)(&other, stream));
    EXPECT(2, HAL(HipQueueCreate)(NULL, stream));
    EXPECT(3, HAL(XQueueGet)(&same, queue));
    EXPECT(2, HAL(XQueueCreate)(&xqueue, queue, 9, 0));
    EXPECT(5, HAL(XQueueCreate)(&xqueue, queue, level, 1));
    EXPECT(3, HAL(XQueueCreate)(&xqueue, 12345, level, 0));
    EXPECT(0, HAL(XQueueCreate)(&xqueue, queue, level, 0));
    EXPECT(4, HAL(XQueueCreate)(&other, queue, level, 0));
    EXPECT(0, HAL(XQueueGet)(&same, queue));
    EXPECT(1, same == xqueue);
    EXPECT(4, HAL(HwQueueDestroy)(queue));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, 8, 4));
    EXPECT(2, HAL(XQueueSetLaunchConfig)(xqueue, 4, 8));
    EXPECT(2, HAL(XQueueSetLaunchConfig)(xqueue, -1, 9));
    EXPECT(2, HAL(XQueueSetLaunchConfig)(xqueue, 3, 0));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, 0, 8));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, 16, -1));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, -1, 16));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, -1, 0));
    EXPECT(2, HAL(XQueueSetLaunchConfig)(xqueue, 1L << 40, 1));
    EXPECT(0, HAL(XQueueSetLaunchConfig)(xqueue, 8, 4));
    EXPECT(0, HAL(XQueueSetPreemptLevel)(xqueue, 1));
    EXPECT(0, HAL(XQueueSetPreemptLevel)(xqueue, level));

    EXPECT(0, HAL(XHintPriority)(xqueue, 1));
    EXPECT(2, HAL(XHintPriority)(xqueue, 256));
    EXPECT(0, HAL(XHintUtilization)(xqueue, 80));
    EXPECT(2, HAL(XHintUtilization)(xqueue, -1));
    EXPECT(0, HAL(XHintTimeslice)(5000));
    EXPECT(0, HAL(XHintLaxity)(xqueue, 1000, 0, 10));
    EXPECT(2, HAL(XHintLaxity)(xqueue, 1000, 0, -256));
    EXPECT(0, HAL(XHintDeadline)(xqueue, 1000));
    EXPECT(0, HAL(XHintKDeadline)(2));
    EXPECT(2, HAL(XHintKDeadline)(0));

    unsigned number = 0;
    for (; number < 12; number++) {
        EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch, (void *)(uintptr_t)number));
        EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
        EXPECT(0, HAL(HwCommandDestroy)(command));
    }
    EXPECT(3, HAL(XQueueSubmit)(xqueue, command));
    EXPECT(0, HAL(XQueueWaitAll)(xqueue));
    EXPECT(12, (int)executed(&in_order));
    EXPECT(0, HAL(XQueueQuery)(xqueue, &state));
    printf("submitted: 12 executed, in order %d, state %d\n", in_order, state);

    EXPECT(0, HAL(XQueueSuspend)(xqueue, 0));
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch, (void *)(uintptr_t)number++));
    EXPECT(3, HAL(XQueueWait)(xqueue, command));
    EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
    usleep(10000);
    EXPECT(12, (int)executed(NULL));
    EXPECT(0, HAL(XQueueQuery)(xqueue, &state));
    EXPECT(0, HAL(XQueueResume)(xqueue, 0));
    EXPECT(0, HAL(XQueueWait)(xqueue, command));
    printf("suspended: state %d; resumed: %u executed\n", state, executed(&in_order));

    // A priority that does not run closes the gate in the scheduler's own time.
    EXPECT(0, HAL(XHintPriority)(xqueue, -256));
    for (unsigned last = 0; last != number;) {
        EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch, (void *)(uintptr_t)number));
        EXPECT(0, HAL(XQueueSubmit)(xqueue, command));
        usleep(10000);
        last = executed(NULL) > number++ ? 0 : number;
    }
    EXPECT(0, HAL(XHintPriority)(xqueue, 1));
    EXPECT(0, HAL(XQueueWaitAll)(xqueue));
    EXPECT((int)number, (int)executed(&in_order));
    printf("held by its priority and released, in order %d\n", in_order);

    EXPECT(0, HAL(HwCommandCreateCallback)(&broken, fail, NULL));
    EXPECT(0, HAL(XQueueSubmit)(xqueue, broken));
    EXPECT(1, HAL(XQueueWait)(xqueue, broken));
    EXPECT(1, HAL(HwQueueLaunch)(queue, broken));
    EXPECT(0, HAL(HwCommandCreateCallback)(&command, launch, (void *)(uintptr_t)number));
    EXPECT(0, HAL(HwQueueLaunch)(queue, command));
    EXPECT(0, HAL(HwQueueSynchronize)(queue));
    EXPECT((int)++number, (int)executed(&in_order));

    EXPECT(0, HAL(XQueueProfileHwCommandCount)(xqueue, &before));
    for (int more = 0; more < 5; more++)
        EXPECT(0, launch(queue, (void *)(uintptr_t)number++));
    EXPECT(0, hipStreamSynchronize(stream));
    EXPECT(0, HAL(XQueueProfileHwCommandCount)(xqueue, &after));
    EXPECT((int)number, (int)executed(&in_order));
    printf("launched by the program itself: %d through the queue, in order %d\n", (int)(after - before),
           in_order);

    number = suspending(xqueue, number);
    EXPECT(1, in_order && executed(&in_order) == number);
    EXPECT(0, HAL(XQueueDestroy)(xqueue));
    EXPECT(3, HAL(XQueueDestroy)(xqueue));
    EXPECT(3, HAL(XQueueQuery)(xqueue, &state));
    destroying(queue, level);
    racing(queue);
    // Level 3 is for programs on one GPU.
    on_another_device(level < 3 ? level : 2);
    EXPECT(0, HAL(HwQueueDestroy)(queue));
    EXPECT(3, HAL(HwQueueDestroy)(queue));
    EXPECT(0, hipStreamDestroy(stream));
    printf("ended\n");
    return 0;
}

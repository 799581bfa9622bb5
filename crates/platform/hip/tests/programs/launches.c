// Launches twelve kernels on each kind of stream; tells how many were in flight at most.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct { unsigned x, y, z; } dim3;
int hipLaunchKernel(const void *, dim3, dim3, void **, size_t, void *);
int hipStreamCreate(void **);
int hipStreamDestroy(void *);
int hipStreamSynchronize(void *);
size_t standin_deepest(void *);
long standin_executed(void *);

static void launch(const char *name, void *stream)
{
    dim3 one = {1, 1, 1};
    unsigned number;
    void *arguments[] = {&number};
    int failed = 0;
    for (number = 0; number < 12; number++)
        failed |= hipLaunchKernel((void *)launch, one, one, arguments, 0, stream);
    // The arguments are the program's again as soon as the call returns.
    memset(&number, 0xff, sizeof number);
    failed |= hipStreamSynchronize(stream);
    printf("%s %d %ld %zu\n", name, failed, standin_executed(stream), standin_deepest(stream));
}

int main(void)
{
    void *created = NULL;
    hipStreamCreate(&created);
    launch("null", NULL);
    launch("per-thread", (void *)2);
    launch("created", created);
    return hipStreamDestroy(created);
}

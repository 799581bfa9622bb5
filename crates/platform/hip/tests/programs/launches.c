// A library as those of matrix products are: linked to the runtime's versioned symbols. It launches a kernel
// of two parameters in the form of a number; -1: there is no such form.
#include <stddef.h>
#include <stdint.h>

typedef struct { unsigned x, y, z; } dim3;
typedef struct {
    const void *function;
    dim3 grid, block;
    void **parameters;
    size_t shared;
    void *stream;
} Launch;
typedef struct {
    dim3 grid, block;
    size_t shared;
    void *stream, *attributes;
    unsigned count;
} Config;
typedef struct {
    dim3 grid, block;
    unsigned shared;
    void *stream, *attributes;
    unsigned count;
} DriverConfig;
#define GRID unsigned, unsigned, unsigned, unsigned, unsigned, unsigned

int hipLaunchKernel(const void *, dim3, dim3, void **, size_t, void *);
int hipLaunchCooperativeKernel(const void *, dim3, dim3, void **, unsigned, void *);
int hipExtLaunchKernel(const void *, dim3, dim3, void **, size_t, void *, void *, void *, int);
int hipModuleLaunchKernel(void *, GRID, unsigned, void *, void **, void **);
int hipModuleLaunchCooperativeKernel(void *, GRID, unsigned, void *, void **);
int hipExtModuleLaunchKernel(void *, GRID, size_t, void *, void **, void **, void *, void *, unsigned);
int _Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j(
    void *, GRID, size_t, void *, void **, void **, void *, void *, unsigned);
int _Z24hipHccModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_(
    void *, GRID, size_t, void *, void **, void **, void *, void *);
int hipLaunchCooperativeKernelMultiDevice(Launch *, int, unsigned);
int hipExtLaunchMultiKernelMultiDevice(Launch *, int, unsigned);
int hipLaunchKernelExC(const Config *, const void *, void **);
int hipDrvLaunchKernelEx(const DriverConfig *, void *, void **, void **);

#define ONE 1, 1, 1, 1, 1, 1

int launch(int form, void *host, void *function, void *stream, uint64_t address, uint32_t value)
{
    dim3 one = {1, 1, 1};
    void *parameters[] = {&address, &value};
    Launch list = {host, one, one, parameters, 0, stream};
    Config config = {one, one, 0, stream, NULL, 0};
    DriverConfig driver_config = {one, one, 0, stream, NULL, 0};
    switch (form) {
    case 0: return hipLaunchKernel(host, one, one, parameters, 0, stream);
    case 1: return hipLaunchCooperativeKernel(host, one, one, parameters, 0, stream);
    case 2: return hipExtLaunchKernel(host, one, one, parameters, 0, stream, NULL, NULL, 0);
    case 3: return hipModuleLaunchKernel(function, ONE, 0, stream, parameters, NULL);
    case 4: return hipModuleLaunchCooperativeKernel(function, ONE, 0, stream, parameters);
    case 5: return hipExtModuleLaunchKernel(function, ONE, 0, stream, parameters, NULL, NULL, NULL, 0);
    case 6:
        return _Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j(
            function, ONE, 0, stream, parameters, NULL, NULL, NULL, 0);
    case 7:
        return _Z24hipHccModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_(
            function, ONE, 0, stream, parameters, NULL, NULL, NULL);
    case 8: return hipLaunchCooperativeKernelMultiDevice(&list, 1, 0);
    case 9: return hipExtLaunchMultiKernelMultiDevice(&list, 1, 0);
    case 10: return hipLaunchKernelExC(&config, host, parameters);
    case 11: return hipDrvLaunchKernelEx(&driver_config, function, parameters, NULL);
    default: return -1;
    }
}

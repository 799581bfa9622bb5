/* A program that links to libOpenCL.so.1: fills a buffer, reads it back, and prints the level of its
 * queue as the shim says, or -1 without one, and whether the function that it called is the shim's.
 * With an argument, finds that function by dlopen. */
#define CL_TARGET_OPENCL_VERSION 120
#define _GNU_SOURCE
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef cl_int (*fill_function)(cl_command_queue, cl_mem, const void *, size_t, size_t, size_t,
                                cl_uint, const cl_event *, cl_event *);

static void check(cl_int result, const char *what) {
    if (result != CL_SUCCESS) {
        fprintf(stderr, "%s: error %d\n", what, result);
        exit(1);
    }
}

int main(int count, char **arguments) {
    cl_platform_id platform;
    cl_device_id device;
    cl_int error;
    check(clGetPlatformIDs(1, &platform, NULL), "clGetPlatformIDs");
    check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "clGetDeviceIDs");
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
    check(error, "clCreateContext");
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &error);
    check(error, "clCreateCommandQueue");
    cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 4096, NULL, &error);
    check(error, "clCreateBuffer");

    fill_function fill = clEnqueueFillBuffer;
    if (count > 1) {
        void *library = dlopen("libOpenCL.so.1", RTLD_LAZY | RTLD_LOCAL);
        fill = (fill_function)dlsym(library, "clEnqueueFillBuffer");
    }
    cl_uint value = 42, first = 0;
    check(fill(queue, buffer, &value, 4, 0, 4096, 0, NULL, NULL), "clEnqueueFillBuffer");
    check(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 4, &first, 0, NULL, NULL), "read");

    int level = -1;
    int (*ask)(cl_command_queue) = (int (*)(cl_command_queue))dlsym(RTLD_DEFAULT, "xsched_opencl_level");
    int patience = getenv("XSCHED_DISABLE") ? 1 : 30000;
    for (int tries = 0; ask && tries < patience && (level = ask(queue)) == 0; tries++)
        usleep(1000);
    int (*seen)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "other_shim_saw");
    Dl_info object;
    int hooked = dladdr((void *)fill, &object) && strstr(object.dli_fname, "libshimopencl.so");
    printf("value %u level %d hooked %d seen %d\n", first, level, hooked, seen ? seen() : -1);
    clReleaseMemObject(buffer);
    clReleaseCommandQueue(queue);
    clReleaseContext(context);
    return 0;
}
